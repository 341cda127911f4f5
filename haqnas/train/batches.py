"""Batches of a training run: which samples each step reads follows from the seed and the step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from haqnas.errors import ConfigurationError
from haqnas.rewrite.calibrate import Batch
from haqnas.train.augment import augment
from haqnas.train.loss import Mixed
from haqnas.train.recipe import Augmentation
from haqnas.train.seeds import seed_at, seeded


@dataclass(frozen=True, slots=True)
class Source:
    """Training data, and how a run reads it; each epoch has an order of its own."""

    data: Dataset[Any]
    num_samples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.batch_size


def source_of(data: Dataset[Any], batch_size: int, seed: int) -> Source:
    """Batches are as large as the data allow; raises ConfigurationError for less than two samples."""
    num_samples = _length(data)
    return Source(data, num_samples, min(batch_size, num_samples), seed)


def batches_from(source: Source, start: int) -> Iterator[Any]:
    """Batches of steps `start`, `start` + 1 ... without end."""
    generator = torch.Generator().manual_seed(source.seed)
    loader = DataLoader(source.data, batch_sampler=_Orders(source, start), generator=generator)
    return iter(loader)


def read_batch(
    source: Source,
    batches: Iterator[Any],
    step: int,
    augmentation: Sequence[Augmentation],
    randaugment: float = 0.0,
    mixup: float = 0.0,
) -> tuple[Batch, Any]:
    """Inputs and labels of a step, augmented as a Recipe says; raises ConfigurationError where samples are no pairs.

    Labels of samples that were mixed are Mixed, where they are a tensor.
    """
    with seeded(source.seed, step):
        inputs, labels = pair(next(batches))
    if augmentation or randaugment > 0:
        generator = torch.Generator().manual_seed(seed_at(source.seed, step))
        inputs = tuple(augment(part, augmentation, generator, randaugment) for part in inputs)
    if mixup > 0:
        inputs, labels = _mixed(inputs, labels, mixup, np.random.default_rng(seed_at(source.seed, step)))
    return tuple(channels_last(part) for part in inputs), labels


def _mixed(inputs: Batch, labels: Any, mixup: float, rng: np.random.Generator) -> tuple[Batch, Any]:
    """Each sample with another one of its batch; source: mixup (arXiv 1710.09412), one share for all of a batch."""
    share = float(rng.beta(mixup, mixup))
    order = torch.from_numpy(rng.permutation(len(inputs[0])))
    mixed = tuple(share * part + (1 - share) * part[order] for part in inputs)
    return mixed, Mixed(labels, labels[order], share) if isinstance(labels, Tensor) else labels


@dataclass(frozen=True, slots=True)
class _Orders:
    """Indices of the samples of each step, from `start` on."""

    source: Source
    start: int

    def __iter__(self) -> Iterator[list[int]]:
        source = self.source
        epoch, first = divmod(self.start, source.steps_per_epoch)
        while True:
            generator = torch.Generator().manual_seed(seed_at(source.seed, -1 - epoch))
            order = torch.randperm(source.num_samples, generator=generator)
            for position in range(first, source.steps_per_epoch):
                yield order[position * source.batch_size : (position + 1) * source.batch_size].tolist()
            epoch, first = epoch + 1, 0


def pair(sample: Any) -> tuple[Batch, Any]:
    """(inputs, labels) of what a data set gives; raises ConfigurationError for anything else."""
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise ConfigurationError("train_data must hold pairs (input, label); training reads both")
    inputs, labels = sample
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), labels


def _length(data: Dataset[Any]) -> int:
    count = len(data)  # type: ignore[arg-type]
    if count < 2:
        raise ConfigurationError(
            f"training needs at least 2 samples in train_data, but got {count}; thousands are usual"
        )
    return int(count)


def channels_last(values: Tensor) -> Tensor:
    """Images in the layout in which convolutions run faster."""
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
