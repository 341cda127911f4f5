"""Convolutions whose groups are small: depthwise (one channel each, vectors of channels) and grouped (scalar).

Both read a halo-padded input, so there are no branches; `offsets` holds one entry per filter position.
"""

from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import CHANNELS, OWN, ZERO_POINT, Finish
from haqnas.kernels.tir import (
    Buffer,
    Expr,
    PrimFunc,
    clamp_bounds,
    convert,
    load,
    local,
    prim_func,
    requantized,
    store,
)

LANES = 16
PIXELS = 4  # pixels of a row that share the loads of their weights


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    ROWS = OWN
    COLUMNS = OWN + 1
    TAPS = OWN + 2  # filter positions
    WEIGHT_ROW = OWN + 3  # depthwise: weights per tap (channels, padded)
    GROUP_IN = OWN + 4  # grouped: input channels of a group
    GROUP_OUT = OWN + 5  # grouped: output channels of a group
    IN_ROW = OWN + 6
    IN_COLUMN = OWN + 7
    OUT_ROW = OWN + 8
    OUT_COLUMN = OWN + 9
    OFFSETS = OWN + 10


POINTERS = {"a": "uint8", "w": "int8", "bias": "int32", "scale": "float32"}


def pack_depthwise(weight: np.ndarray) -> np.ndarray:
    """(channels, taps, 1) int8 -> flat (taps, channels padded to LANES)."""
    channels, taps, _ = weight.shape
    padded = np.zeros((taps, -(-channels // LANES) * LANES), np.int8)
    padded[:, :channels] = weight[:, :, 0].T
    return padded.reshape(-1)


def pack_grouped(weight: np.ndarray) -> np.ndarray:
    """(channels, taps, group inputs) int8 -> flat, unchanged order."""
    return np.ascontiguousarray(weight).reshape(-1)


def depthwise_symbol(finish: Finish) -> str:
    """The C name of the kernel."""
    return f"hq_depthwise_{finish}"


def grouped_symbol(finish: Finish) -> str:
    """The C name of the kernel."""
    return f"hq_grouped_{finish}"


def _finish(total: Expr, factor: Expr, bounds: tuple[Expr, Expr, Expr], lanes: int, finish: Finish) -> Expr:
    if finish is Finish.FLOAT32:
        return convert(total, "float32", lanes) * factor
    return requantized(total, factor, bounds, lanes)


def depthwise_kernel(finish: Finish) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)`: every output channel reads the input channel of its number."""

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        bounds = clamp_bounds(p, ZERO_POINT)
        vectors = {pixels: local("int32", pixels * LANES) for pixels in (1, PIXELS)}
        scalar = local("int32", 1)

        def patch(pixels: int, lanes: int, acc: Buffer, c: Expr, row: Expr, column: Expr) -> None:
            for m in range(pixels):
                store(acc, load(bias, c, lanes), m * lanes, lanes)
            base = row * p[Parameter.IN_ROW] + column * p[Parameter.IN_COLUMN] + c
            with T.serial(0, p[Parameter.TAPS]) as t:
                weight = convert(load(w, t * p[Parameter.WEIGHT_ROW] + c, lanes), "int16", lanes)
                for m in range(pixels):
                    source = base + m * p[Parameter.IN_COLUMN] + p[Parameter.OFFSETS + t]
                    # 255 * 127 fits 16 bits: the product is exact there, and half as wide as in int32.
                    product = convert(load(a, source, lanes), "int16", lanes) * weight
                    total = load(acc, m * lanes, lanes) + convert(product, "int32", lanes)
                    store(acc, total, m * lanes, lanes)
            for m in range(pixels):
                out = row * p[Parameter.OUT_ROW] + (column + m) * p[Parameter.OUT_COLUMN] + c
                factor = load(scale, c, lanes)
                store(y, _finish(load(acc, m * lanes, lanes), factor, bounds, lanes, finish), out, lanes)

        whole = T.floordiv(p[Parameter.COLUMNS], PIXELS)
        blocks = T.floordiv(p[CHANNELS], LANES)
        with T.serial(0, p[Parameter.ROWS]) as row:
            with T.serial(0, whole) as i, T.serial(0, blocks) as block:
                patch(PIXELS, LANES, vectors[PIXELS], block * LANES, row, i * PIXELS)
            with T.serial(0, p[Parameter.COLUMNS] - whole * PIXELS) as i, T.serial(0, blocks) as block:
                patch(1, LANES, vectors[1], block * LANES, row, whole * PIXELS + i)
            rest = p[CHANNELS] - blocks * LANES
            with T.serial(0, p[Parameter.COLUMNS]) as i, T.serial(0, rest) as c:
                patch(1, 1, scalar, blocks * LANES + c, row, i)

    return prim_func(depthwise_symbol(finish), {**POINTERS, "y": finish.dtype, "parameters": "int32"}, body)


def grouped_kernel(finish: Finish) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)` for any number and size of groups; plain, for any machine."""

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        bounds = clamp_bounds(p, ZERO_POINT)
        acc = local("int32", 1)
        with (
            T.serial(0, p[Parameter.ROWS]) as row,
            T.serial(0, p[Parameter.COLUMNS]) as column,
            T.serial(0, p[CHANNELS]) as n,
        ):
            first = T.floordiv(n, p[Parameter.GROUP_OUT]) * p[Parameter.GROUP_IN]
            base = row * p[Parameter.IN_ROW] + column * p[Parameter.IN_COLUMN] + first
            store(acc, bias[n], 0)
            with T.serial(0, p[Parameter.TAPS]) as t, T.serial(0, p[Parameter.GROUP_IN]) as c:
                value = T.cast(a[base + p[Parameter.OFFSETS + t] + c], "int32")
                weight = T.cast(w[(n * p[Parameter.TAPS] + t) * p[Parameter.GROUP_IN] + c], "int32")
                store(acc, acc[0] + value * weight, 0)
            out = row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN] + n
            store(y, _finish(acc[0], scale[n], bounds, 1, finish), out)

    return prim_func(grouped_symbol(finish), {**POINTERS, "y": finish.dtype, "parameters": "int32"}, body)
