"""Depthwise convolution on Arm: eight channels at a time, products of 16-bit numbers added to int32 (smlal).

Three forms. Where the filter is narrow and output pixels lie a whole number of taps apart, each input pixel is loaded
and widened once for all output pixels of a tile that read it: filters of 3x3 are unrolled, and their weights stay in
registers; others are a loop over the rows of the filter. Any other filter is a loop over its taps; that form also
stands in for the others where a program must be small.

The last tile of a row overlaps the one before where its pixels are no multiple of the tile's, and so do the last eight
channels of a layer; so a layer has at least eight. Tiles of several sizes took 7 % fewer instructions in rows of 14
pixels, for three times the code.
"""

from collections.abc import Sequence
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
# The same by stride with a loop over rows of five taps, which loads the weights for each tile.
LOOP_COSTS = {stride: {k: 110 + 70 * k for k in range(most, 0, -1)} for stride, most in ((1, 7), (2, 4))}
WIDEST = 5  # columns of a filter whose rows are unrolled


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
    COLUMNS = OWN + 9
    TILES = OWN + 10  # of a row
    HEIGHT = OWN + 11  # rows of the filter
    OFFSETS = OWN + 12  # one per tap


@dataclass(frozen=True, slots=True)
class Filter:
    """Taps on a grid, whose rows are unrolled; output pixels lie `stride` taps apart."""

    height: int | None  # None: any, by a loop
    width: int
    stride: int

    @property
    def name(self) -> str:
        return f"{self.height or 'n'}x{self.width}s{self.stride}"


def unrolled_filter(offsets: tuple[int, ...], in_column: int) -> Filter | None:
    """The form with unrolled rows that fits, or None."""
    taps = grid(offsets)
    if taps is None or taps[1] > WIDEST or taps[3] <= 0:
        return None
    stride, rest = divmod(in_column, taps[3])
    height = 3 if taps[:2] == (3, 3) else None
    return Filter(height, taps[1], stride) if rest == 0 and stride in (1, 2) else None


def tile_pixels(form: Filter, columns: int) -> int:
    """Pixels of the tiles that cover a row at the least cost."""
    costs = COSTS if form.height else LOOP_COSTS[form.stride]
    return min((size for size in costs if size <= columns), key=lambda s: -(-columns // s) * costs[s])


def pack(weight: np.ndarray) -> np.ndarray:
    """(channels, taps, 1) int8 -> flat (taps, channels)."""
    return np.ascontiguousarray(weight[:, :, 0].T).reshape(-1)


@dataclass(frozen=True, slots=True)
class Variant:
    """What the code of a kernel is specialised for; all else it reads at run time."""

    form: Filter | None
    pixels: int  # of a tile
    clamp: Clamp
    finish: Finish

    @property
    def symbol(self) -> str:
        form = self.form.name if self.form else "taps"
        return f"hq_depthwise_neon_{form}_{self.pixels}{self.clamp.suffix}_{self.finish}"


def _multiply_add(acc: Buffer, at: int, x: Expr, weight: Expr) -> None:
    """acc[at .. at + 7] += x * weight, both int16x8 (smlal, smlal2)."""
    for k, (a, b) in enumerate(zip(halves(x, LANES), halves(weight, LANES), strict=True)):
        total = load(acc, at + k * LANES, LANES) + intrinsic("int32x4", "smull.v4i32", a, b)
        store(acc, total, at + k * LANES, LANES)


def kernel(variant: Variant) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)`: every output channel reads the input channel of its number."""
    form, finish, pixels = variant.form, variant.finish, variant.pixels

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        ending = Ending.begin(finish, variant.clamp, None, p)
        width = min(BLOCK, ending.width)
        # Widened by a product with a 1 that LLVM does not know: it would widen halves, in three instructions each.
        ones = splat(T.cast(p[Parameter.ONE], "int8"), BLOCK)

        def act(buffer: Buffer, index: Expr) -> Expr:
            return intrinsic("int16x8", "umull.v8i16", load(buffer, index, BLOCK), ones)

        def weights(index: Expr) -> Expr:
            return intrinsic("int16x8", "smull.v8i16", load(w, index, BLOCK), ones)

        def row_of_taps(taps: Filter, acc: Buffer, line: Buffer, row: Sequence[Expr]) -> None:
            span = (pixels - 1) * taps.stride + taps.width
            inputs = [act(line, column * p[Parameter.ACROSS]) for column in range(span)]
            for column, weight in enumerate(row):
                for m in range(pixels):
                    _multiply_add(acc, m * BLOCK, inputs[m * taps.stride + column], weight)

        def multiply(acc: Buffer, source: Buffer, c: Expr, held: Sequence[Expr]) -> None:
            if form is None:
                with T.serial(0, p[Parameter.TAPS]) as t:
                    tap = pointer(source, p[Parameter.OFFSETS + t])
                    weight = weights(t * p[CHANNELS] + c)
                    for m in range(pixels):
                        _multiply_add(acc, m * BLOCK, act(tap, m * p[Parameter.IN_COLUMN]), weight)
            elif form.height is None:
                with T.serial(0, p[Parameter.HEIGHT]) as row:
                    first = row * form.width
                    loaded = [weights((first + column) * p[CHANNELS] + c) for column in range(form.width)]
                    row_of_taps(form, acc, pointer(source, row * p[Parameter.DOWN]), loaded)
            else:
                for row in range(form.height):
                    line = pointer(source, row * p[Parameter.DOWN]) if row else source
                    row_of_taps(form, acc, line, held[row * form.width : (row + 1) * form.width])

        acc = local("int32", pixels * BLOCK)
        with T.serial(0, T.floordiv(p[CHANNELS] + BLOCK - 1, BLOCK)) as block:
            c = T.bind(T.min(block * BLOCK, p[CHANNELS] - BLOCK))
            # Bound here: LLVM would not move these loads out of loops that it cannot prove to run.
            taps = form.height * form.width if form and form.height else 0
            held = [T.bind(weights(tap * p[CHANNELS] + c)) for tap in range(taps)]
            start, factors = (
                [T.bind(load(x, c + k, LANES)) for k in range(0, BLOCK, LANES)] for x in (bias, scale)
            )

            def tile(source: Buffer, target: Buffer) -> None:
                for at in range(0, pixels * BLOCK, LANES):
                    store(acc, start[at % BLOCK // LANES], at, LANES)
                multiply(acc, source, c, held)
                for m in range(pixels):
                    for first in range(0, BLOCK, width):
                        parts = range(first, first + width, LANES)
                        totals = [load(acc, m * BLOCK + part, LANES) for part in parts]
                        value = ending.finished(totals, [factors[part // LANES] for part in parts], None)
                        store(target, value, m * p[Parameter.OUT_COLUMN] + first, width)

            with T.serial(0, p[Parameter.ROWS]) as row:
                source = pointer(a, row * p[Parameter.IN_ROW] + c)
                target = pointer(y, row * p[Parameter.OUT_ROW] + c)
                with T.serial(0, p[Parameter.TILES]) as i:
                    at = T.bind(T.min(i * pixels, p[Parameter.COLUMNS] - pixels))
                    tile(
                        pointer(source, at * p[Parameter.IN_COLUMN]),
                        pointer(target, at * p[Parameter.OUT_COLUMN]),
                    )

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": "int8" if variant.clamp.is_signed else finish.dtype,
        "parameters": "int32",
    }
    return prim_func(variant.symbol, pointers, body)
