"""Losses of a network that learns labels and a teacher's outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def loss_of(
    outputs: Sequence[Tensor],
    wanted: Sequence[Tensor] | None,
    labels: Any,
    *,
    distillation: float,
    temperature: float,
) -> Tensor:
    """Loss of a batch: labels and the teacher's outputs `wanted`, whose share is `distillation`, 0 to 1.

    Outputs (n, classes): cross entropy with labels (n,), and KL divergence from the teacher, logits of both divided
    by `temperature`. Other outputs, and other labels: squared error to the teacher's, in units of its variance.
    """
    first = outputs[0].float()
    if not has_classes(first, labels):
        assert wanted is not None
        pairs = zip(outputs, wanted, strict=True)
        return torch.stack([_squared_error(given.float(), goal.float()) for given, goal in pairs]).sum()
    parts: list[Tensor] = []
    if distillation < 1:
        parts.append((1 - distillation) * functional.cross_entropy(first, labels.reshape(-1)))
    if wanted is not None:
        given = functional.log_softmax(first / temperature, 1)
        goal = functional.log_softmax(wanted[0].float() / temperature, 1)
        divergence = functional.kl_div(given, goal, reduction="batchmean", log_target=True)
        parts.append(distillation * temperature**2 * divergence)
    return torch.stack(parts).sum()


def has_classes(output: Tensor, labels: Any) -> bool:
    """Whether labels are class indices of an output (n, classes)."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        return False
    return output.ndim == 2 and output.shape[1] > 1 and labels.numel() == len(output)


def _squared_error(given: Tensor, goal: Tensor) -> Tensor:
    return (given - goal).square().mean() / goal.var(correction=0).clamp(min=1e-12)
