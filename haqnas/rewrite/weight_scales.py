"""Scales of weights: the ones of least squared error, found by trying clipped ranges."""

import torch
from torch import Tensor, nn

from haqnas.quantspec import weight_range

CLIP_RATIOS = tuple(0.2 + 0.8 * index / 24 for index in range(25))  # of the greatest weight
SMALLEST_SCALE = 1e-10  # of a channel whose weights are all zero


def scale_axis(layer: nn.Module) -> int | None:
    """The dimension of a layer's weight that has a scale each; None: one scale for all.

    A grouped transposed convolution keeps output channels of different groups in one column: one scale for all.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        return 1 if layer.groups == 1 else None
    return 0


def quantized_weight(layer: nn.Module, weight_bits: int) -> Tensor:
    """The float weight of a layer as `weight_bits` can hold it, with the scales that quantization starts from."""
    weight = layer.get_parameter("weight").detach()
    scales = weight_scales(weight, weight_bits, scale_axis(layer))
    if weight_bits == 1:
        return torch.where(weight >= 0, scales, -scales)
    low, high = weight_range(weight_bits)
    return torch.round(weight / scales).clamp(low, high) * scales


def weight_scales(weight: Tensor, weight_bits: int, axis: int | None) -> Tensor:
    """Scale per channel along `axis` (or one for all) that minimises the squared quantization error.

    `weight` float32 of any shape; the result has size 1 in all dimensions but `axis`, or no dimensions.
    One bit: the mean absolute weight, which is optimal for {-1, +1} (arXiv 1603.05279). Eight bits: the greatest
    weight, where clipping gains nothing. Between: the best of 25 clipped ranges.
    """
    reduced = [dim for dim in range(weight.ndim) if dim != axis]
    magnitude = weight.abs()
    if weight_bits == 1:
        scales = magnitude.mean(dim=reduced, keepdim=True)
    elif weight_bits == 8:
        scales = magnitude.amax(dim=reduced, keepdim=True) / weight_range(8)[1]
    else:
        scales = _least_error_scales(magnitude, weight_range(weight_bits)[1], reduced)
    scales = scales.clamp(min=SMALLEST_SCALE)
    return scales.reshape(()) if axis is None else scales


def _least_error_scales(magnitude: Tensor, quant_max: int, reduced: list[int]) -> Tensor:
    widest = magnitude.amax(dim=reduced, keepdim=True) / quant_max
    best_scale, best_error = widest, torch.full_like(widest, float("inf"))
    for ratio in CLIP_RATIOS:
        scale = (widest * ratio).clamp(min=SMALLEST_SCALE)
        rounded = torch.round(magnitude / scale).clamp(max=quant_max) * scale
        error = (rounded - magnitude).square().sum(dim=reduced, keepdim=True)
        better = error < best_error
        best_scale, best_error = (
            torch.where(better, scale, best_scale),
            torch.where(better, error, best_error),
        )
    return best_scale
