"""Smaller kernels of a convolution by their centre: 7 to 5 to 3, with the output of the same size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from haqnas.graph.parametrise import Layered, rebuild_layer

SMALLEST_KERNEL = 3


def kernel_sizes(layer: nn.Module) -> tuple[int, ...]:
    """Side lengths that a layer's kernel may have, its own first; none where it has no choice.

    Kernels are square and odd, and the padding must be wide enough to give way, so that outputs keep their size.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or len({*layer.kernel_size}) != 1:
        return ()
    size = layer.kernel_size[0]
    sizes = [size]
    if size % 2:
        sizes += [
            smaller
            for smaller in range(size - 2, SMALLEST_KERNEL - 1, -2)
            if all(pad >= 0 for pad in cropped_padding(layer, smaller))
        ]
    return tuple(sizes) if len(sizes) > 1 else ()


def cropped_padding(layer: nn.Conv1d | nn.Conv2d, size: int) -> tuple[int, ...]:
    """Padding at which a smaller kernel reads the same centres."""
    gone = (layer.kernel_size[0] - size) // 2
    padding: Any = layer.padding  # "same" and "valid" are numbers in a canonical graph
    return tuple(pad - dilation * gone for pad, dilation in zip(padding, layer.dilation, strict=True))


def crop_kernel(layer: nn.Module, size: int, transforms: Mapping[int, Tensor]) -> Layered:
    """The layer with the centre of its kernel, which loses a pixel on each side at a time.

    `transforms`, by the side length that they give: (size**d, size**d), which each centre is multiplied by as
    Once-for-All learns them; the identity where there is none.
    """
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    bias = None if layer.bias is None else layer.bias.detach()
    with torch.no_grad():
        weight = crop_weight(layer.weight, size, transforms)
    return rebuild_layer(layer, weight.contiguous(), bias, padding=cropped_padding(layer, size))


def crop_weight(weight: Tensor, size: int, transforms: Mapping[int, Tensor]) -> Tensor:
    """The weight (out, in, k, ...) that `crop_kernel` gives a layer; gradients reach weight and transforms."""
    rank = weight.dim() - 2
    for smaller in range(weight.shape[-1] - 2, size - 1, -2):
        weight = functional.pad(weight, (-1, -1) * rank)
        if smaller in transforms:
            weight = (weight.flatten(2) @ transforms[smaller].to(torch.float32).T).reshape(weight.shape)
    return weight
