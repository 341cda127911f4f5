"""Lowering of operators on images with windows or taps: pooling and resizing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import fx

from haqnas.codegen.draft import Argument, RowsWritten, Value
from haqnas.codegen.layers import as_image
from haqnas.codegen.layout import NO_HALO
from haqnas.codegen.movement import Walk
from haqnas.codegen.nodes import arguments
from haqnas.codegen.signature import of_numbers
from haqnas.codegen.split import COPIED_BYTES_PER_NS, LINE_BYTES, even_ranges
from haqnas.graph.windows import (
    Window,
    adaptive_windows,
    average_factors,
    average_windows,
    bilinear_taps,
    nearest_indices,
)
from haqnas.kernels import windows
from haqnas.kernels.pieces import lanes_of
from haqnas.kernels.tir import PrimFunc
from haqnas.kernels.windows import Parameter

Function = tuple[str, Callable[[], PrimFunc]]


def _image(walk: Walk, node: fx.Node) -> Value:
    return as_image(walk.draft, walk.value(arguments(node)[0]), NO_HALO, 0, walk.layer(node))


@dataclass(frozen=True, slots=True)
class Windows:
    """What a kernel of `kernels/windows.py` reads: one entry per output row and column, int32 or float32."""

    rows: Sequence[Any]
    columns: Sequence[Any]
    scalars: dict[Parameter, int]
    factors: np.ndarray | None = None  # (rows, columns) float32


def _emit(
    walk: Walk, node: fx.Node, function: Callable[[int], Function], x: Value, out: Value, w: Windows
) -> None:
    """Append the call, in parts where they pay: rows of the output, or channels where it has few.

    `function`: the kernel for parts of so many channels, and more.
    """
    draft = walk.draft
    channels, height = out.layout.shape[1:3]
    work_ns = max(prod(x.layout.shape), prod(out.layout.shape)) / COPIED_BYTES_PER_NS
    count = draft.cutting.count(work_ns)
    by_row = height >= count
    ranges = even_ranges(height, count) if by_row else even_ranges(channels, count, LINE_BYTES)
    symbol, kernel = function(channels if by_row else min(end - first for first, end in ranges))
    parts = draft.begin(len(ranges), work_ns, RowsWritten(out.buffer, ranges) if by_row else None)
    rows, columns = (np.array(table, np.int32) for table in (w.rows, w.columns))
    shared = (draft.constant(rows), draft.constant(columns))
    factors = None if w.factors is None else draft.constant(w.factors)
    for part, (first, end) in zip(parts, ranges, strict=True):
        row, channel = (first, 0) if by_row else (0, first)
        extents = {
            Parameter.ROWS: end - first if by_row else height,
            Parameter.CHANNELS: channels if by_row else end - first,
        }
        arguments: tuple[Argument, ...] = (
            draft.address(out, out.layout.offset + row * out.layout.strides[2] + channel),
            draft.address(x, x.layout.offset + channel),
            shared[0].moved(row * rows[0].nbytes),
            shared[1],
            *([] if factors is None else [factors.moved(row * len(columns) * 4)]),
            draft.constant(_parameters(x, out, w.scalars | extents)),
        )
        size = extents[Parameter.ROWS], out.layout.shape[3], extents[Parameter.CHANNELS]
        read = rows[first:end] if by_row else rows
        steps = *x.layout.strides[2:], *out.layout.strides[2:]
        windows_read = {"rows": read.ravel().tolist(), "columns": columns.ravel().tolist()}
        loops = of_numbers(size=size, steps=steps, **windows_read)
        draft.call(symbol, kernel, arguments, walk.layer(node), loops, part)


def _parameters(x: Value, out: Value, values: dict[Parameter, int]) -> np.ndarray:
    array = np.zeros(len(Parameter), np.int32)
    array[Parameter.COLUMNS] = out.layout.shape[3]
    array[Parameter.IN_ROW], array[Parameter.IN_COLUMN] = x.layout.strides[2:]
    array[Parameter.OUT_ROW], array[Parameter.OUT_COLUMN] = out.layout.strides[2:]
    for position, value in values.items():
        array[position] = value
    return array


def valid_elements(
    size: int, count: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[list[int]]:
    """The elements inside the image of each of `count` windows; they are `dilation` apart."""
    windows_ = [[index * stride - padding + k * dilation for k in range(kernel)] for index in range(count)]
    return [[element for element in window if 0 <= element < size] for window in windows_]


def max_pool(walk: Walk, node: fx.Node) -> Value:
    """Maximum over windows."""
    x, out = _image(walk, node), walk.result(node, "uint8")
    kernel, stride, padding, dilation = (list(a) for a in arguments(node)[1:5])
    rows, columns = (
        valid_elements(
            x.layout.shape[2 + i], out.layout.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i]
        )
        for i in (0, 1)
    )
    draft, width = walk.draft, kernel[1]

    def function(channels: int) -> Function:
        lanes = lanes_of(channels, draft.profile.isas, windows.MOST_MAXIMA)
        return windows.max_pool_symbol(lanes, width), lambda: windows.max_pool_kernel(lanes, width)

    tables = Windows(
        [(row[0], len(row)) for row in rows],
        [column + column[:1] * (width - len(column)) for column in columns],
        {Parameter.ROW_STEP: dilation[0]},
    )
    _emit(walk, node, function, x, out, tables)
    return out


def avg_pool(walk: Walk, node: fx.Node) -> Value:
    """Average over windows."""
    x = _image(walk, node)
    kernel, stride, padding, ceil_mode, count_include_pad = arguments(node)[1:6]
    rows, columns = (
        average_windows(x.layout.shape[2 + i], kernel[i], stride[i], padding[i], ceil_mode, count_include_pad)
        for i in (0, 1)
    )
    return _average(walk, node, x, rows, columns, arguments(node)[6:])


def adaptive_avg_pool(walk: Walk, node: fx.Node) -> Value:
    """Average over as many windows as there are outputs."""
    x = _image(walk, node)
    out_h, out_w = arguments(node)[1:3]
    rows = adaptive_windows(x.layout.shape[2], out_h)
    columns = adaptive_windows(x.layout.shape[3], out_w)
    return _average(walk, node, x, rows, columns, arguments(node)[3:])


def _average(
    walk: Walk, node: fx.Node, x: Value, rows: list[Window], columns: list[Window], numbers: Sequence[Any]
) -> Value:
    scale, in_zero_point, zero_point, low, high = numbers
    out = walk.result(node, "uint8")
    values = {
        Parameter.IN_ZERO_POINT: in_zero_point,
        Parameter.ZERO_POINT: zero_point,
        Parameter.LOW: low,
        Parameter.HIGH: high,
    }
    row_spans, column_spans = _spans(x, rows, columns)
    factors = average_factors(rows, columns, scale).numpy()

    def function(channels: int) -> Function:
        lanes = lanes_of(channels, walk.draft.profile.isas, windows.MOST_SUMS)
        return windows.average_symbol(lanes), lambda: windows.average_kernel(lanes)

    _emit(walk, node, function, x, out, Windows(row_spans, column_spans, values, factors))
    return out


def _spans(
    x: Value, rows: list[Window], columns: list[Window]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(first, count) of each window; one window over whole rows that follow each other is a single long row."""
    width, (row, pixel) = x.layout.shape[3], x.layout.strides[2:]
    if len(rows) == len(columns) == 1 and columns[0][:2] == (0, width) and row == width * pixel:
        first, last, _ = rows[0]
        return [(0, 1)], [(first * width, (last - first) * width)]
    return [(f, last - f) for f, last, _ in rows], [(f, last - f) for f, last, _ in columns]


def nearest(walk: Walk, node: fx.Node) -> Value:
    """Nearest-neighbour resize."""
    x, out = _image(walk, node), walk.result(node, "uint8")
    rows, columns = (nearest_indices(x.layout.shape[axis], out.layout.shape[axis]) for axis in (2, 3))
    _emit(walk, node, lambda _: ("hq_nearest", windows.nearest_kernel), x, out, Windows(rows, columns, {}))
    return out


def bilinear(walk: Walk, node: fx.Node) -> Value:
    """Bilinear resize."""
    x, out = _image(walk, node), walk.result(node, "uint8")
    align = arguments(node)[3]
    rows, columns = (bilinear_taps(x.layout.shape[axis], out.layout.shape[axis], align) for axis in (2, 3))
    _emit(walk, node, lambda _: ("hq_bilinear", windows.bilinear_kernel), x, out, Windows(rows, columns, {}))
    return out
