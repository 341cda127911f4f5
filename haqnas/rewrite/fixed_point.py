"""Integer constants of the operators: biases, requantization tables, multipliers of additions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from haqnas.errors import UnsupportedModelError
from haqnas.rewrite.quants import ActQuant

INT32_LIMIT = 2**31
MULTIPLIER_LIMIT = 2**15
GREATEST_SHIFT = 30
TABLE_SIZE = 256


def integer_bias(bias: Tensor | None, scale: Tensor) -> Tensor:
    """int32 bias in units of the accumulator; `bias`, `scale` (out_channels,); beyond int32 it saturates."""
    if bias is None:
        return torch.zeros(scale.shape, dtype=torch.int32)
    units = torch.round(bias.detach().to(torch.float64) / scale.to(torch.float64))
    return units.clamp(-(INT32_LIMIT - 1), INT32_LIMIT - 1).to(torch.int32)


def check_accumulator(layer: str, weight: Tensor, axis: int, bias: Tensor, quant: ActQuant) -> None:
    """Prove that no input can overflow the int32 accumulator; raises UnsupportedModelError that names the layer.

    `weight` int8 with output channels along `axis` (for a grouped transposed convolution, columns of channels).
    """
    widest = max(quant.zero_point, quant.quant_max - quant.zero_point)
    reduced = [dim for dim in range(weight.ndim) if dim != axis]
    sums = widest * weight.to(torch.int64).abs().sum(dim=reduced)
    worst = int(sums.max()) + int(bias.to(torch.int64).abs().max())
    if sums.shape == bias.shape:
        worst = int((sums + bias.to(torch.int64).abs()).max())
    if worst >= INT32_LIMIT:
        raise UnsupportedModelError(
            f"the accumulator of {layer} must stay below 2**31, but it can reach {worst}; "
            f"give the layer fewer weight or activation bits, or scale its weights and bias down"
        )


def table_of(function: Callable[[Tensor], Tensor], source: ActQuant, target: ActQuant) -> Tensor:
    """(256,) uint8: what each integer of `source` becomes under `function`, as an integer of `target`.

    Integers beyond the bits of `source` never come; they get the entry of the greatest one.
    """
    integers = torch.arange(TABLE_SIZE).clamp(max=source.quant_max)
    values = function(((integers - source.zero_point).to(torch.float64) * source.scale).to(torch.float32))
    scaled = torch.round(values.to(torch.float64) / target.scale) + target.zero_point
    return scaled.clamp(0, target.quant_max).to(torch.uint8)


def clamp_integers(target: ActQuant, bounds: tuple[float, float] | None) -> tuple[int, int]:
    """Least and greatest integer of `target` that lie within real `bounds`: a folded ReLU, ReLU6 ..."""
    if bounds is None:
        return 0, target.quant_max

    def nearest(value: float) -> int:
        if math.isinf(value):
            return 0 if value < 0 else target.quant_max
        return min(max(round(value / target.scale) + target.zero_point, 0), target.quant_max)

    return nearest(bounds[0]), nearest(bounds[1])


def add_multipliers(a: ActQuant, b: ActQuant, target: ActQuant, sign: int = 1) -> tuple[int, int, int]:
    """(multiplier of a, multiplier of b, shift) of `haqnas::qadd`; sign -1 subtracts b.

    The greatest shift for which |sum| < 2**31 for all inputs and the multipliers fit 16 bits, so that kernels can
    use 16-bit multipliers: an error of 2**-16 of an operand's span. A ratio of scales so large
    that one step of an input exceeds the output's range saturates instead.
    """
    spans = [max(quant.zero_point, quant.quant_max - quant.zero_point) for quant in (a, b)]
    ratios = [quant.scale / target.scale for quant in (a, b)]
    for shift in range(GREATEST_SHIFT, 0, -1):
        multipliers = [round(ratio * 2**shift) for ratio in ratios]
        if max(multipliers) < MULTIPLIER_LIMIT and _largest_sum(multipliers, spans, shift) < INT32_LIMIT:
            return multipliers[0], sign * multipliers[1], shift
    ceilings = [min((INT32_LIMIT - 2) // (2 * span), MULTIPLIER_LIMIT - 1) for span in spans]
    saturated = [min(round(2 * r), ceiling) for r, ceiling in zip(ratios, ceilings, strict=True)]
    return saturated[0], sign * saturated[1], 1


def _largest_sum(multipliers: list[int], spans: list[int], shift: int) -> int:
    return sum(m * span for m, span in zip(multipliers, spans, strict=True)) + (1 << (shift - 1))
