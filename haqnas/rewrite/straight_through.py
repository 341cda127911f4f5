"""Rounding that can be trained: fake quantization with straight-through gradients and a learned step (LSQ).

Gradients are those of arXiv 1902.08153: a value inside the range passes its gradient on, one outside does not, and
the step gets what rounding and clipping did to the loss. In-place operators in few passes: torch's own
`_fake_quantize_learnable_per_tensor_affine` takes 25 times as long on a CPU, because its kernel is scalar, and
brevitas' chain of single operators six times.
"""

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

STEP_SAMPLES = 16  # of a batch, evenly spaced, give the gradient of an activation's step


class _QuantizeActivation(torch.autograd.Function):
    """round(x / step) clamped to integers [low, high], times step; one step for the whole tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        step_value = float(step)
        quantized = x.mul(1.0 / step_value).round_().clamp_(low, high).mul_(step_value)
        ctx.save_for_backward(x, quantized)
        ctx.bounds, ctx.step_value = (low * step_value, high * step_value), step_value
        return quantized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, quantized = ctx.saved_tensors
        inside = torch.empty_like(
            x
        )  # laid out as x is: a gradient of another layout slows all that follows down
        aten.hardtanh_backward.grad_input(grad, x, *ctx.bounds, grad_input=inside)
        # d quantized / d step is (quantized - x) / step inside the range and quantized / step outside. It is one
        # number from millions: part of the batch tells it as well, in a fraction of the time.
        stride = max(len(x) // STEP_SAMPLES, 1)
        part = grad[::stride].float() * quantized[::stride] - inside[::stride].float() * x[::stride]
        return inside, part.sum() * (stride / ctx.step_value), None, None


class _QuantizeWeight(torch.autograd.Function):
    """round(weight / step) clamped to [-high, high], times step; one step per output channel or for all.

    With `is_binary` the integers are -1 and 1.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, high: int, is_binary: bool) -> Tensor:
        integers = torch.where(weight < 0, -1.0, 1.0) if is_binary else (weight / step).round_()
        quantized = integers.clamp_(-high, high).mul_(step)
        ctx.save_for_backward(weight, quantized, step)
        ctx.high = high
        return quantized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, quantized, step = ctx.saved_tensors
        inside = torch.where(weight.abs() <= step * ctx.high, grad, 0.0)
        reduced = [dim for dim in range(weight.ndim) if step.ndim == 0 or step.shape[dim] == 1]
        total = grad.mul(quantized).sub_(inside * weight).sum(dim=reduced, keepdim=True)
        return inside, (total / step).reshape(step.shape), None, None


def quantize_activation(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """`x` (n, ...) on the grid of `step` (no dimensions), integers `low` to `high`; trains `x` and `step`."""
    made: Tensor = _QuantizeActivation.apply(x, step, low, high)  # type: ignore[no-untyped-call]
    return made


def quantize_weight(weight: Tensor, step: Tensor, high: int, is_binary: bool) -> Tensor:
    """`weight` on the grid of `step`, which broadcasts to it; integers -high to high; trains both."""
    made: Tensor = _QuantizeWeight.apply(weight, step, high, is_binary)  # type: ignore[no-untyped-call]
    return made
