"""Losses of a network that learns labels and a teacher's outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Mixed:
    """Labels of samples that were mixed: `share` of the first ones, and the rest of the second."""

    first: Tensor
    second: Tensor
    share: float


def loss_of(
    outputs: Sequence[Tensor],
    wanted: Sequence[Tensor] | None,
    labels: Any,
    *,
    distillation: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of a batch: labels and the teacher's outputs `wanted`, whose share is `distillation`, 0 to 1.

    Outputs (n, classes): cross entropy with labels (n,), which may be Mixed and of which the share `label_smoothing` is
    spread over all classes, and KL divergence from the teacher, logits of both divided by `temperature`.
    Other outputs, and other labels: squared error to the teacher's, in units of its variance.
    """
    first = outputs[0].float()
    if not has_classes(first, labels):
        assert wanted is not None
        pairs = zip(outputs, wanted, strict=True)
        return torch.stack([_squared_error(given.float(), goal.float()) for given, goal in pairs]).sum()
    parts: list[Tensor] = []
    if distillation < 1:
        parts.append((1 - distillation) * _cross_entropy(first, labels, label_smoothing))
    if wanted is not None:
        given = functional.log_softmax(first / temperature, 1)
        goal = functional.log_softmax(wanted[0].float() / temperature, 1)
        divergence = functional.kl_div(given, goal, reduction="batchmean", log_target=True)
        parts.append(distillation * temperature**2 * divergence)
    return torch.stack(parts).sum()


def has_classes(output: Tensor, labels: Any) -> bool:
    """Whether labels are class indices of an output (n, classes)."""
    if isinstance(labels, Mixed):
        return has_classes(output, labels.first)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        return False
    return output.ndim == 2 and output.shape[1] > 1 and labels.numel() == len(output)


def _cross_entropy(logits: Tensor, labels: Any, smoothing: float) -> Tensor:
    if isinstance(labels, Mixed):
        parts = [
            share * _cross_entropy(logits, part, smoothing)
            for part, share in ((labels.first, labels.share), (labels.second, 1 - labels.share))
        ]
        return torch.stack(parts).sum()
    return functional.cross_entropy(logits, labels.reshape(-1), label_smoothing=smoothing)


def _squared_error(given: Tensor, goal: Tensor) -> Tensor:
    return (given - goal).square().mean() / goal.var(correction=0).clamp(min=1e-12)
