"""Geometry of pooling and resizing, shared by the reference operators and by lowering."""

from collections.abc import Sequence

import torch
from torch import Tensor

BILINEAR_BITS = 11  # two weights of 11 bits and 8 bits of data stay below 2**31

Window = tuple[int, int, int]  # first element, last element + 1, divisor


def average_windows(
    size: int, kernel: int, stride: int, padding: int, ceil_mode: bool, count_include_pad: bool
) -> list[Window]:
    """(first, last + 1, divisor) of each window along one axis, as torch.nn.AvgPool2d defines them."""
    span = size + 2 * padding - kernel
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # the last window must start inside the input or its left padding
    windows = []
    for index in range(count):
        first = index * stride - padding
        last = min(first + kernel, size + padding)
        divisor = last - first
        first, last = max(first, 0), min(last, size)
        windows.append((first, last, divisor if count_include_pad else last - first))
    return windows


def adaptive_windows(size: int, count: int) -> list[Window]:
    """(first, last + 1, divisor) of each window of an adaptive average along one axis."""
    bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return [(first, last, last - first) for first, last in bounds]


def average_factors(rows: Sequence[Window], columns: Sequence[Window], scale: float) -> Tensor:
    """float32 (oh, ow): scale / number of elements of each window; what the window's sum is multiplied by."""
    divisors = torch.tensor([[r[2] * c[2] for c in columns] for r in rows], dtype=torch.float64)
    return (scale / divisors).to(torch.float32)


def nearest_indices(in_size: int, out_size: int) -> list[int]:
    """Source index of each output index, as torch's mode="nearest" defines it (floor)."""
    return [min(i * in_size // out_size, in_size - 1) for i in range(out_size)]


def bilinear_taps(in_size: int, out_size: int, align_corners: bool) -> list[tuple[int, int, int]]:
    """(lower index, upper index, weight of the upper one in 2**-BILINEAR_BITS) of each output index."""
    taps = []
    for index in range(out_size):
        if align_corners:
            source = index * (in_size - 1) / (out_size - 1) if out_size > 1 else 0.0
        else:
            source = max((index + 0.5) * in_size / out_size - 0.5, 0.0)
        lower = min(int(source), in_size - 1)
        taps.append((lower, min(lower + 1, in_size - 1), round((source - lower) * 2**BILINEAR_BITS)))
    return taps
