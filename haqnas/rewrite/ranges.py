"""Which range of values an activation quantizer covers: statistics of batches, and the range of least squared error.

A histogram counts values in 2 * HALF_BINS equal bins of [-limit, limit]. The limit is a power of two, so that a
histogram with a greater limit is the same one with bins merged, exactly.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from haqnas.quantspec import act_range

HALF_BINS = 4096  # 16 bins for each step of 8 bits even where values have one sign and half the limit
SMALLEST_EXPONENT = -40
JOINT_RATIOS = tuple(1.12**-index for index in range(30))  # of the observed range, down to 0.04
FINE_RATIOS = tuple(0.88 + 0.02 * index for index in range(13))


@dataclass(frozen=True, slots=True)
class Histogram:
    """What was seen of one value: extremes, and counts of values per bin; `counts` (2 * HALF_BINS,) float64."""

    least: float
    greatest: float
    exponent: int  # limit = 2**exponent
    counts: Tensor

    @property
    def limit(self) -> float:
        return 2.0**self.exponent

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.greatest - self.least)


@dataclass(frozen=True, slots=True)
class Range:
    """Scale and zero point of a quantizer."""

    scale: float
    zero_point: int


def observe(values: Tensor) -> Histogram:
    """Histogram of a float tensor of any shape; one with NaN or infinity has such extremes and no counts."""
    least, greatest = (float(extreme) for extreme in torch.aminmax(values))
    if not math.isfinite(greatest - least):
        return Histogram(least, greatest, SMALLEST_EXPONENT, torch.zeros(2 * HALF_BINS, dtype=torch.float64))
    largest = max(abs(least), abs(greatest))
    exponent = max(math.frexp(largest)[1], SMALLEST_EXPONENT)
    limit = 2.0**exponent
    counts = torch.histc(values.detach().flatten(), 2 * HALF_BINS, -limit, limit)
    return Histogram(least, greatest, exponent, counts.to(torch.float64))


def merge(first: Histogram, second: Histogram) -> Histogram:
    """Histogram of the values of both."""
    exponent = max(first.exponent, second.exponent)
    counts = _widened(first, exponent).counts + _widened(second, exponent).counts
    return Histogram(min(first.least, second.least), max(first.greatest, second.greatest), exponent, counts)


def choose_range(histogram: Histogram, bits: int) -> Range:
    """The range of least squared error, zero exactly representable.

    First both ends shrink together, then each on its own. A value that was always zero gets the range 0 to 1.
    """
    least, greatest = min(histogram.least, 0.0), max(histogram.greatest, 0.0)
    if greatest - least < 2.0**SMALLEST_EXPONENT:
        return Range(1.0 / act_range(bits)[1], 0)
    least, greatest = _best(histogram, bits, [(least * ratio, greatest * ratio) for ratio in JOINT_RATIOS])
    if least < 0.0 < greatest:
        least, greatest = _best(histogram, bits, [(least * ratio, greatest) for ratio in FINE_RATIOS])
    least, greatest = _best(histogram, bits, [(least, greatest * ratio) for ratio in FINE_RATIOS])
    scale, zero_point = _quantization(torch.tensor([[least, greatest]], dtype=torch.float64), bits)
    return Range(float(scale), int(zero_point))


def _widened(histogram: Histogram, exponent: int) -> Histogram:
    factor = min(2 ** (exponent - histogram.exponent), HALF_BINS)
    if factor == 1:
        return histogram
    halves = histogram.counts.reshape(2, HALF_BINS // factor, factor).sum(2)
    empty = torch.zeros(HALF_BINS - HALF_BINS // factor, dtype=torch.float64)
    return replace(histogram, exponent=exponent, counts=torch.cat([empty, halves[0], halves[1], empty]))


def _quantization(ranges: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point, (n,) float64 each, of `ranges` (n, 2)."""
    quant_max = act_range(bits)[1]
    scale = (ranges[:, 1] - ranges[:, 0]) / quant_max
    return scale, torch.round(-ranges[:, 0] / scale).clamp(0, quant_max)


def _best(histogram: Histogram, bits: int, candidates: list[tuple[float, float]]) -> tuple[float, float]:
    occupied = histogram.counts.nonzero().flatten()
    counts = histogram.counts[occupied].to(torch.float32)
    centres = ((occupied + 0.5 - HALF_BINS) * (histogram.limit / HALF_BINS)).to(torch.float32)
    scale, zero_point = _quantization(torch.tensor(candidates, dtype=torch.float64), bits)
    scale, zero_point = scale.to(torch.float32)[:, None], zero_point.to(torch.float32)[:, None]
    integers = (torch.round(centres / scale) + zero_point).clamp(0, act_range(bits)[1])
    errors = ((integers - zero_point) * scale - centres).square() @ counts
    return candidates[int(errors.argmin())]
