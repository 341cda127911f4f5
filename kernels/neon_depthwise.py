"""Depthwise convolution on Arm: eight channels at a time, products of 16-bit numbers added to int32 (smlal).

Two forms. Where the filter is small and output pixels lie a whole number of taps apart, a tile of pixels is unrolled:
each input pixel is loaded and widened once for all output pixels that read it, and the weights stay in registers.
Any other filter is a loop over its taps.

The last eight channels of a layer overlap the ones before where its channels are no multiple of eight, so a layer
has at least eight.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import CHANNELS, OWN, Finish
from haqnas.kernels.neon import LANES, Clamp, Ending, halves, intrinsic
from haqnas.kernels.row import grid
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, pointer, prim_func, splat, store

BLOCK = 8
# Pixels of a tile -> its instructions with a 3x3 filter; more than four and registers become scarce.
COSTS = {5: 236.0, 4: 174.0, 3: 148.0, 2: 115.0, 1: 80.0}
LARGEST_UNROLLED = 5  # rows and columns of the filter


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish.py`."""

    ROWS = OWN
    TAPS = OWN + 1
    IN_ROW = OWN + 2
    IN_COLUMN = OWN + 3
    OUT_ROW = OWN + 4
    OUT_COLUMN = OWN + 5
    DOWN = OWN + 6  # from a row of taps to the next
    ACROSS = OWN + 7  # from a tap to the next
    ONE = OWN + 8
    TILES = OWN + 9  # one per size of tile
    OFFSETS = OWN + 15  # one per tap


@dataclass(frozen=True, slots=True)
class Filter:
    """Taps on a grid, unrolled; output pixels lie `stride` taps apart."""

    height: int
    width: int
    stride: int


def unrolled_filter(offsets: tuple[int, ...], in_column: int) -> Filter | None:
    """The form of the first kind that fits, or None."""
    taps = grid(offsets)
    if taps is None or max(taps[:2]) > LARGEST_UNROLLED or taps[3] <= 0:
        return None
    stride, rest = divmod(in_column, taps[3])
    return Filter(taps[0], taps[1], stride) if rest == 0 and stride in (1, 2) else None


def pack(weight: np.ndarray) -> np.ndarray:
    """(channels, taps, 1) int8 -> flat (taps, channels)."""
    return np.ascontiguousarray(weight[:, :, 0].T).reshape(-1)


@dataclass(frozen=True, slots=True)
class Variant:
    """What the code of a kernel is specialised for; all else it reads at run time."""

    form: Filter | None
    sizes: tuple[int, ...]  # pixels of its tiles
    clamp: Clamp
    finish: Finish

    @property
    def symbol(self) -> str:
        shape = f"{self.form.height}x{self.form.width}s{self.form.stride}" if self.form else "taps"
        sizes = f"_{self.sizes[0]}" if len(self.sizes) == 1 else ""
        return f"hq_depthwise_neon_{shape}{sizes}{self.clamp.suffix}_{self.finish}"


def _multiply_add(acc: Buffer, at: int, x: Expr, weight: Expr) -> None:
    """acc[at .. at + 7] += x * weight, both int16x8 (smlal, smlal2)."""
    for k, (a, b) in enumerate(zip(halves(x, LANES), halves(weight, LANES), strict=True)):
        total = load(acc, at + k * LANES, LANES) + intrinsic("int32x4", "smull.v4i32", a, b)
        store(acc, total, at + k * LANES, LANES)


def kernel(variant: Variant) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)`: every output channel reads the input channel of its number."""
    form, finish = variant.form, variant.finish

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        ending = Ending.begin(finish, variant.clamp, None, p)
        width = min(BLOCK, ending.width)
        # Widened by a product with a 1 that LLVM does not know: it would widen halves, in three instructions each.
        ones = splat(T.cast(p[Parameter.ONE], "int8"), BLOCK)

        def act(buffer: Buffer, index: Expr) -> Expr:
            return intrinsic("int16x8", "umull.v8i16", load(buffer, index, BLOCK), ones)

        def weights(index: Expr) -> Expr:
            return intrinsic("int16x8", "smull.v8i16", load(w, index, BLOCK), ones)

        def unrolled(taps: Filter, acc: Buffer, pixels: int, source: Buffer, c: Expr) -> None:
            span = (pixels - 1) * taps.stride + taps.width
            for row in range(taps.height):
                line = pointer(source, row * p[Parameter.DOWN]) if row else source
                inputs = [act(line, column * p[Parameter.ACROSS]) for column in range(span)]
                for column in range(taps.width):
                    weight = weights((row * taps.width + column) * p[CHANNELS] + c)
                    for m in range(pixels):
                        _multiply_add(acc, m * BLOCK, inputs[m * taps.stride + column], weight)

        def looped(acc: Buffer, pixels: int, source: Buffer, c: Expr) -> None:
            with T.serial(0, p[Parameter.TAPS]) as t:
                tap = pointer(source, p[Parameter.OFFSETS + t])
                weight = weights(t * p[CHANNELS] + c)
                for m in range(pixels):
                    _multiply_add(acc, m * BLOCK, act(tap, m * p[Parameter.IN_COLUMN]), weight)

        def tile(acc: Buffer, pixels: int, source: Buffer, target: Buffer, c: Expr) -> None:
            for at in range(0, pixels * BLOCK, LANES):
                store(acc, load(bias, c + at % BLOCK, LANES), at, LANES)
            if form:
                unrolled(form, acc, pixels, source, c)
            else:
                looped(acc, pixels, source, c)
            for m in range(pixels):
                for first in range(0, BLOCK, width):
                    parts = range(first, first + width, LANES)
                    totals = [load(acc, m * BLOCK + part, LANES) for part in parts]
                    value = ending.finished(totals, [load(scale, c + part, LANES) for part in parts], None)
                    store(target, value, m * p[Parameter.OUT_COLUMN] + first, width)

        with T.serial(0, T.floordiv(p[CHANNELS] + BLOCK - 1, BLOCK)) as block:
            c = T.bind(T.min(block * BLOCK, p[CHANNELS] - BLOCK))
            with T.serial(0, p[Parameter.ROWS]) as row:
                source = pointer(a, row * p[Parameter.IN_ROW] + c)
                target = pointer(y, row * p[Parameter.OUT_ROW] + c)
                column: Expr = T.int32(0)
                for index, pixels in enumerate(variant.sizes):
                    acc = local("int32", pixels * BLOCK)
                    count = p[Parameter.TILES + index]
                    with T.serial(0, count) as i:
                        at = column + i * pixels
                        tile(
                            acc,
                            pixels,
                            pointer(source, at * p[Parameter.IN_COLUMN]),
                            pointer(target, at * p[Parameter.OUT_COLUMN]),
                            c,
                        )
                    column = column + count * pixels

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": "int8" if variant.clamp.is_signed else finish.dtype,
        "parameters": "int32",
    }
    return prim_func(variant.symbol, pointers, body)
