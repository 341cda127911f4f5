"""Lowering of operators on images with windows or taps: pooling and resizing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from haqnas.codegen.draft import Draft, Value
from haqnas.codegen.layers import as_image
from haqnas.codegen.layout import NO_HALO
from haqnas.codegen.movement import Walk
from haqnas.codegen.nodes import arguments
from haqnas.graph.windows import (
    Window,
    adaptive_windows,
    average_factors,
    average_windows,
    bilinear_taps,
    nearest_indices,
)
from haqnas.kernels import windows
from haqnas.kernels.windows import Parameter


def _image(walk: Walk, node: fx.Node) -> Value:
    return as_image(walk.draft, walk.value(arguments(node)[0]), NO_HALO, 0, walk.layer(node))


def _parameters(draft: Draft, x: Value, out: Value, values: dict[Parameter, int]) -> Any:
    array = np.zeros(len(Parameter), np.int32)
    array[Parameter.ROWS], array[Parameter.COLUMNS] = out.layout.shape[2:]
    array[Parameter.CHANNELS] = out.layout.shape[1]
    array[Parameter.IN_ROW], array[Parameter.IN_COLUMN] = x.layout.strides[2:]
    array[Parameter.OUT_ROW], array[Parameter.OUT_COLUMN] = out.layout.strides[2:]
    for position, value in values.items():
        array[position] = value
    return draft.constant(array)


def _table(draft: Draft, rows: Sequence[Any]) -> Any:
    return draft.constant(np.array(rows, np.int32))


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
    pointers = (
        draft.address(out),
        draft.address(x),
        _table(draft, [(row[0], len(row)) for row in rows]),
        _table(draft, [column + column[:1] * (width - len(column)) for column in columns]),
        _parameters(draft, x, out, {Parameter.ROW_STEP: dilation[0]}),
    )
    lanes = windows.lanes_of_channels(out.layout.shape[1], draft.profile.isas, windows.MOST_MAXIMA)
    symbol = windows.max_pool_symbol(lanes, width)
    draft.call(symbol, lambda: windows.max_pool_kernel(lanes, width), pointers, walk.layer(node))
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
    draft = walk.draft
    values = {
        Parameter.IN_ZERO_POINT: in_zero_point,
        Parameter.ZERO_POINT: zero_point,
        Parameter.LOW: low,
        Parameter.HIGH: high,
    }
    row_spans, column_spans = _spans(x, rows, columns)
    pointers = (
        draft.address(out),
        draft.address(x),
        _table(draft, row_spans),
        _table(draft, column_spans),
        draft.constant(average_factors(rows, columns, scale).numpy()),
        _parameters(draft, x, out, values),
    )
    lanes = windows.lanes_of_channels(out.layout.shape[1], draft.profile.isas, windows.MOST_SUMS)
    symbol = windows.average_symbol(lanes)
    draft.call(symbol, lambda: windows.average_kernel(lanes), pointers, walk.layer(node))
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
    pointers = (
        walk.draft.address(out),
        walk.draft.address(x),
        _table(walk.draft, nearest_indices(x.layout.shape[2], out.layout.shape[2])),
        _table(walk.draft, nearest_indices(x.layout.shape[3], out.layout.shape[3])),
        _parameters(walk.draft, x, out, {}),
    )
    walk.draft.call("hq_nearest", windows.nearest_kernel, pointers, walk.layer(node))
    return out


def bilinear(walk: Walk, node: fx.Node) -> Value:
    """Bilinear resize."""
    x, out = _image(walk, node), walk.result(node, "uint8")
    align = arguments(node)[3]
    pointers = (
        walk.draft.address(out),
        walk.draft.address(x),
        _table(walk.draft, bilinear_taps(x.layout.shape[2], out.layout.shape[2], align)),
        _table(walk.draft, bilinear_taps(x.layout.shape[3], out.layout.shape[3], align)),
        _parameters(walk.draft, x, out, {}),
    )
    walk.draft.call("hq_bilinear", windows.bilinear_kernel, pointers, walk.layer(node))
    return out
