"""Scores of a network: top-1 on labelled data, or agreement with another network where there are no labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from haqnas.errors import ConfigurationError


def score_top1(model: nn.Module, dataset: Dataset[Any], batch_size: int) -> float:
    """Share of samples, 0 to 1, whose greatest output is the label's.

    `dataset` gives (input without batch dimension, label); the model gives (n, classes), or a tuple that starts
    with it. Raises ConfigurationError when the data set is empty or the output has no class per sample.
    """
    correct, total = 0, 0
    with torch.no_grad():
        for inputs, labels in DataLoader(dataset, batch_size=batch_size):
            predicted = _classes(model, tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,))
            correct += int((predicted == labels.reshape(-1)).sum())
            total += len(predicted)
    if total == 0:
        raise ConfigurationError("the data set to score on is empty; give at least one sample")
    return correct / total


def score_agreement(model: nn.Module, reference: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> float:
    """How far `model` gives what `reference` gives, 0 to 1.

    Outputs (n, classes): the share of samples with the same greatest output. Other outputs (images, one number):
    1 - squared error / variance of the reference, at least 0. Raises ConfigurationError without batches.
    """
    if not batches:
        raise ConfigurationError("agreement needs at least one batch of inputs, but got none")
    with torch.no_grad():
        pairs = [(_first(model(*batch)), _first(reference(*batch))) for batch in batches]
    given, wanted = (torch.cat([pair[index] for pair in pairs]) for index in (0, 1))
    if wanted.ndim == 2 and wanted.shape[1] > 1:
        return float((given.argmax(1) == wanted.argmax(1)).double().mean())
    error = (given - wanted).double().square().mean()
    variance = wanted.double().var(correction=0)
    return float((1 - error / variance.clamp(min=1e-12)).clamp(min=0.0))


def _classes(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    output = _first(model(*inputs))
    if output.ndim != 2:
        raise ConfigurationError(
            f"top-1 needs outputs of shape (n, classes), but the model gives {tuple(output.shape)}; "
            "give the model file an evaluate(model, data) function"
        )
    return output.argmax(1)


def _first(output: Any) -> Tensor:
    found = output[0] if isinstance(output, tuple | list) else output
    assert isinstance(found, Tensor)
    return found
