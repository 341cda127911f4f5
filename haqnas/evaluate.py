"""What data says about a network: batches to calibrate on, and scores of the float and the quantized network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from haqnas.errors import ConfigurationError
from haqnas.train.score import score_agreement, score_top1

SCORE_BATCH_SIZE = 100
CALIBRATION_BATCH_SIZE = 32
MAX_CALIBRATION_SAMPLES = 512
MIN_CALIBRATION_SAMPLES = 32
NUM_PROBES = 32
CALIBRATION_VALUES = 512 * 3 * 32 * 32  # input values; large images need fewer samples, and memory is bounded

Batches: TypeAlias = Sequence[tuple[Tensor, ...]]
Evaluate: TypeAlias = Callable[[nn.Module, Dataset[Any]], float]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Scores of the float model and of the integer graph that the binary equals; higher is better."""

    metric: str  # "top-1", "evaluate" (the user's own), "agreement" (share of inputs with the float model's class)
    float_model: float | None  # None for agreement: it is the reference
    simulated: float
    num_samples: int  # that were scored
    num_available: int  # in the data
    data: str  # "val_data", "calibration_data", "train_data" or "synthetic"


@dataclass(frozen=True, slots=True)
class Judges:
    """What accuracy is read on: the user's held-out data and function, where there are any."""

    val_data: Dataset[Any] | None
    evaluate: Evaluate | None
    num_samples: int | None  # evenly spaced, of val_data, for top-1; None: all


def sample_batches(
    data: Dataset[Any], name: str, example_inputs: tuple[Tensor, ...], rng: np.random.Generator
) -> tuple[tuple[Tensor, ...], ...]:
    """Random inputs of `data`, without repetition, in batches; `name` is what messages call it.

    Raises ConfigurationError where it is empty or its inputs do not fit the network.
    """
    num_values = sum(example.numel() for example in example_inputs)
    wanted = min(
        MAX_CALIBRATION_SAMPLES, max(MIN_CALIBRATION_SAMPLES, CALIBRATION_VALUES // max(num_values, 1))
    )
    length = dataset_length(data, name)
    indices = rng.choice(length, min(wanted, length), replace=False)
    samples = [read_inputs(data, name, int(index), example_inputs) for index in indices]
    return tuple(
        tuple(
            torch.stack(column)
            for column in zip(*samples[start : start + CALIBRATION_BATCH_SIZE], strict=True)
        )
        for start in range(0, len(samples), CALIBRATION_BATCH_SIZE)
    )


def dataset_length(data: Dataset[Any], name: str) -> int:
    """Number of samples; raises ConfigurationError where there is none."""
    try:
        length = len(data)  # type: ignore[arg-type]  # the contract asks for a sized Dataset; checked here
    except TypeError:
        raise ConfigurationError(
            f"{name} must be a Dataset with a length, but got {type(data).__name__}"
        ) from None
    if length == 0:
        raise ConfigurationError(f"{name} is empty; return at least one sample, or leave the function out")
    return length


def read_inputs(
    data: Dataset[Any], name: str, index: int, example_inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The inputs of one sample, without batch dimension; raises ConfigurationError."""
    try:
        sample = data[index]
    except Exception as error:
        raise ConfigurationError(f"{name}[{index}] raises {type(error).__name__}: {error}") from error
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise ConfigurationError(
            f"{name}[{index}] must be a pair (input, label), but got {type(sample).__name__}"
        )
    inputs = tuple(sample[0]) if isinstance(sample[0], tuple | list) else (sample[0],)
    found = [
        (tuple(part.shape), part.dtype) if isinstance(part, Tensor) else type(part).__name__
        for part in inputs
    ]
    expected = [(tuple(example.shape[1:]), example.dtype) for example in example_inputs]
    if found != expected:
        raise ConfigurationError(
            f"{name}[{index}] must have the input (shape without batch dimension, dtype) {expected}, as "
            f"example_inputs, but got {found}"
        )
    return inputs


def probe_inputs(data: Dataset[Any], name: str, example_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A few samples, evenly spaced: to tell one data set from another without reading all of it."""
    length = dataset_length(data, name)
    indices = sorted({index * length // NUM_PROBES for index in range(NUM_PROBES)})
    return tuple(part for index in indices for part in read_inputs(data, name, index, example_inputs))


def score_accuracy(
    float_model: nn.Module,
    integer_graph: nn.Module,
    judges: Judges,
    batches: Batches,
    batches_source: str,
    float_score: float | None = None,
) -> Accuracy:
    """Score on `val_data` where there is some, else by agreement on `batches`.

    The float model is scored only where it has no `float_score` yet.
    """
    if judges.val_data is None:
        num_samples = sum(int(batch[0].shape[0]) for batch in batches)
        agreement = score_agreement(integer_graph, float_model, batches)
        return Accuracy("agreement", None, agreement, num_samples, num_samples, batches_source)
    available = dataset_length(judges.val_data, "val_data")
    if judges.evaluate is not None:
        if float_score is None:
            float_score = checked_score(judges.evaluate(float_model, judges.val_data))
        simulated = checked_score(judges.evaluate(integer_graph, judges.val_data))
        return Accuracy("evaluate", float_score, simulated, available, available, "val_data")
    wanted = available if judges.num_samples is None else min(judges.num_samples, available)
    chosen = Subset(judges.val_data, [index * available // wanted for index in range(wanted)])
    if float_score is None:
        float_score = score_top1(float_model, chosen, SCORE_BATCH_SIZE)
    simulated = score_top1(integer_graph, chosen, SCORE_BATCH_SIZE)
    return Accuracy("top-1", float_score, simulated, wanted, available, "val_data")


def checked_score(score: Any) -> float:
    """What the user's `evaluate` gave; raises ConfigurationError where it is no number."""
    try:
        return float(score)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"evaluate(model, data) must return a number, higher is better, but got {score!r}"
        ) from None
