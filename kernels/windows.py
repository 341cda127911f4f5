"""Kernels over images of channels-last pixels: maximum and average pooling, nearest and bilinear resizing.

Windows and interpolation taps are computed at compile time and passed as tables: borders cost no branches.
The innermost loop runs over channels, which lie next to each other in memory.
"""

from collections.abc import Callable
from enum import IntEnum

from tvm.tirx.script.builder import ir as T

from haqnas.graph.windows import BILINEAR_BITS
from haqnas.kernels.tir import (
    Buffer,
    Expr,
    PrimFunc,
    clamp_bounds,
    convert,
    load,
    local,
    pointer,
    prim_func,
    requantized,
    splat,
    store,
)

MOST_MAXIMA, MOST_SUMS = 64, 32  # channels at once
SHORT_SUM = 257  # bytes whose sum fits 16 bits: 257 * 255 = 65535


class Parameter(IntEnum):
    """Positions in the parameter array."""

    ROWS = 0  # of the output
    COLUMNS = 1
    CHANNELS = 2
    IN_ROW = 3
    IN_COLUMN = 4
    OUT_ROW = 5
    OUT_COLUMN = 6
    ROW_STEP = 7  # dilation
    IN_ZERO_POINT = 8
    ZERO_POINT = 9
    LOW = 10
    HIGH = 11


def _each_block(channels: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    """Call `body` with the first channel of every `lanes`; the last ones overlap those before."""
    with T.serial(0, T.truncdiv(channels + lanes - 1, lanes)) as block:
        body(T.bind(T.min(block * lanes, channels - lanes)))


def max_pool_kernel(lanes: int, width: int) -> PrimFunc:
    """`void f(Y, A, rows, columns, parameters)` for windows of `width` columns and at least `lanes` channels.

    rows: (first, count) of each window; columns: `width` of each window, where one outside of the image is replaced by
    one inside. A loop over a window's columns took 36 us where these take 20 (3x3, 112x112x64).
    """

    def body(y: Buffer, a: Buffer, rows: Buffer, columns: Buffer, p: Buffer) -> None:
        greatest = local("uint8", lanes)
        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.COLUMNS]) as column:
            out = row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN]
            source = rows[2 * row] * p[Parameter.IN_ROW]
            down = p[Parameter.ROW_STEP] * p[Parameter.IN_ROW]
            taps = [T.bind(columns[width * column + j] * p[Parameter.IN_COLUMN]) for j in range(width)]

            def pool(c: Expr) -> None:
                store(greatest, splat(T.uint8(0), lanes), 0, lanes)
                with T.serial(0, rows[2 * row + 1]) as i:
                    line = pointer(a, source + i * down + c)
                    for tap in taps:
                        store(greatest, T.max(load(greatest, 0, lanes), load(line, tap, lanes)), 0, lanes)
                store(y, load(greatest, 0, lanes), out + c, lanes)

            _each_block(p[Parameter.CHANNELS], lanes, pool)

    pointers = {"y": "uint8", "a": "uint8", "rows": "int32", "columns": "int32", "parameters": "int32"}
    return prim_func(max_pool_symbol(lanes, width), pointers, body)


def max_pool_symbol(lanes: int, width: int) -> str:
    """The C name of the kernel."""
    return f"hq_max_pool_{lanes}_{width}"


def average_kernel(lanes: int) -> PrimFunc:
    """`void f(Y, A, rows, columns, factors, parameters)`: sums * factor, requantized. At least `lanes` channels.

    `factors` float32 (rows, columns) holds scale / divisor of each window.
    """

    def body(y: Buffer, a: Buffer, rows: Buffer, columns: Buffer, factors: Buffer, p: Buffer) -> None:
        bounds = clamp_bounds(p, Parameter.ZERO_POINT)

        def add_row(total: Buffer, source: Expr, width: Expr) -> None:
            """Add `width` pixels, in 16 bits as long as they hold the sum: half the instructions of 32."""
            partial = local("uint16", lanes)
            with T.serial(0, T.truncdiv(width + SHORT_SUM - 1, SHORT_SUM)) as part:
                first = part * SHORT_SUM
                pixels = pointer(a, source + first * p[Parameter.IN_COLUMN])
                store(partial, splat(T.uint16(0), lanes), 0, lanes)
                with T.serial(0, T.min(SHORT_SUM, width - first)) as j:
                    pixel = load(pixels, j * p[Parameter.IN_COLUMN], lanes)
                    store(partial, load(partial, 0, lanes) + convert(pixel, "uint16", lanes), 0, lanes)
                wide = convert(load(partial, 0, lanes), "int32", lanes)
                store(total, load(total, 0, lanes) + wide, 0, lanes)

        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.COLUMNS]) as column:

            def average(c: Expr) -> None:
                total = local("int32", lanes)
                height, width = rows[2 * row + 1], columns[2 * column + 1]
                store(total, splat(-(height * width) * p[Parameter.IN_ZERO_POINT], lanes), 0, lanes)
                left = columns[2 * column] * p[Parameter.IN_COLUMN]
                with T.serial(0, height) as i:
                    add_row(total, (rows[2 * row] + i) * p[Parameter.IN_ROW] + left + c, width)
                factor = splat(factors[row * p[Parameter.COLUMNS] + column], lanes)
                out = row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN] + c
                store(y, requantized(load(total, 0, lanes), factor, bounds, lanes), out, lanes)

            _each_block(p[Parameter.CHANNELS], lanes, average)

    pointers = {
        "y": "uint8",
        "a": "uint8",
        "rows": "int32",
        "columns": "int32",
        "factors": "float32",
        "parameters": "int32",
    }
    return prim_func(average_symbol(lanes), pointers, body)


def average_symbol(lanes: int) -> str:
    """The C name of the kernel."""
    return f"hq_average_{lanes}"


def nearest_kernel() -> PrimFunc:
    """`void f(Y, A, rows, columns, parameters)`; rows and columns: source index of each output index."""

    def body(y: Buffer, a: Buffer, rows: Buffer, columns: Buffer, p: Buffer) -> None:
        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.COLUMNS]) as column:
            source = rows[row] * p[Parameter.IN_ROW] + columns[column] * p[Parameter.IN_COLUMN]
            out = row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN]
            with T.serial(0, p[Parameter.CHANNELS]) as c:
                store(y, a[source + c], out + c)

    pointers = {"y": "uint8", "a": "uint8", "rows": "int32", "columns": "int32", "parameters": "int32"}
    return prim_func("hq_nearest", pointers, body)


def bilinear_kernel() -> PrimFunc:
    """`void f(Y, A, rows, columns, parameters)`; rows and columns: (lower, upper, weight of upper) per output index."""
    one = 1 << BILINEAR_BITS

    def body(y: Buffer, a: Buffer, rows: Buffer, columns: Buffer, p: Buffer) -> None:
        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.COLUMNS]) as column:
            top, bottom = rows[3 * row] * p[Parameter.IN_ROW], rows[3 * row + 1] * p[Parameter.IN_ROW]
            left, right = (columns[3 * column + k] * p[Parameter.IN_COLUMN] for k in (0, 1))
            down, across = rows[3 * row + 2], columns[3 * column + 2]
            out = row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN]
            with T.serial(0, p[Parameter.CHANNELS]) as c:
                upper, lower = (
                    T.cast(a[line + left + c], "int32") * (one - across)
                    + T.cast(a[line + right + c], "int32") * across
                    for line in (top, bottom)
                )
                total = upper * (one - down) + lower * down + (1 << (2 * BILINEAR_BITS - 1))
                store(y, T.cast(T.shift_right(total, 2 * BILINEAR_BITS), "uint8"), out + c)

    pointers = {"y": "uint8", "a": "uint8", "rows": "int32", "columns": "int32", "parameters": "int32"}
    return prim_func("hq_bilinear", pointers, body)
