"""Dot-product family on Arm: convolution and linear layers, 16 bytes of A at a time.

The sum is that of `dot.py`; what differs is how it is cut. All taps together are one list of steps: a step reads 16
consecutive bytes of A (or what is left at the end of a tap) at a fixed offset from the pixel's base, and multiplies
them by the weights of a block of output channels. The list is made at compile time, so the kernel is one loop. Where
output pixels lie as far apart as input pixels, a step may span the taps of a row of the filter: a pixel of A that is
loaded once serves every output pixel in the tile that reads it.

A row of pixels is cut into tiles of one size, chosen at compile time. Where it is no multiple of that size, the last
tile overlaps the one before, or is a smaller one: several sizes in every kernel took twice the code and gained little.

Layers whose taps are a few bytes each are gathered first (`neon_gather.py`), a row at a time; then they are like
pointwise layers.

The caller guarantees: weights packed by `pack`, bias and scale padded to whole blocks, and 15 readable bytes after
the last element of A (their weights are zero).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import CHANNELS, OWN, RESIDUAL_COLUMN, RESIDUAL_ROW, Finish
from haqnas.kernels.neon import CHUNK, LANES, Clamp, Ending, Sum
from haqnas.kernels.neon_gather import Gather, emit_row
from haqnas.kernels.neon_multiply import Multiply
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, pointer, prim_func, store

MIXED = 1.04  # cost of a row with a tail, by that of one without


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish.py`."""

    ROWS = OWN
    BLOCKS = OWN + 1
    IN_ROW = OWN + 2
    IN_COLUMN = OWN + 3
    OUT_ROW = OWN + 4
    OUT_COLUMN = OWN + 5
    WHOLE = OWN + 6  # steps of 16 bytes
    RESTS = OWN + 7  # shorter steps
    COLUMNS = OWN + 8
    TILES = OWN + 9  # of a row
    OFFSETS = (
        OWN + 10
    )  # one per step: whole ones, then shorter ones; then one per tap, where they are gathered


@dataclass(frozen=True, slots=True)
class Tiling:
    """A block of output channels by at most so many pixels, all held in registers."""

    multiply: Multiply
    pixels: int
    block: int
    span: int = 1  # taps of a row of the filter that a step covers

    @property
    def name(self) -> str:
        return f"{self.multiply.name}/{self.pixels}x{self.block}" + (
            f"/span{self.span}" if self.span > 1 else ""
        )


@dataclass(frozen=True, slots=True)
class Steps:
    """The taps of a layer as steps: offsets of whole chunks, and of rests of `rest` units each."""

    whole: tuple[int, ...]
    rests: tuple[int, ...]
    rest: int


def steps(tiling: Tiling, taps: Sequence[int], length: int) -> Steps:
    """Steps over `taps`; at each, `length` bytes are multiplied (of one position, where a step spans several)."""
    units = -(-length // tiling.multiply.unit)
    chunks, rest = divmod(units, CHUNK // tiling.multiply.unit)
    whole = tuple(tap + CHUNK * k for tap in taps for k in range(chunks))
    return Steps(whole, tuple(tap + CHUNK * chunks for tap in taps) if rest else (), rest)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a row is cut: `count` tiles of `pixels`, and at its end one of `tail` pixels."""

    count: int
    pixels: int
    tail: int  # 0: none; the last of the others ends with the row and overlaps the one before


def tiles_of(tiling: Tiling, columns: int) -> Tiles:
    """The cheapest tiles. A tail costs code, so it must gain a few percent."""
    each = tiling.multiply.tile_cost

    def cost(tiles: Tiles) -> float:
        tail = MIXED * (tiles.tail + each) if tiles.tail else 0
        return tiles.count * (tiles.pixels + each) * (MIXED if tiles.tail else 1) + tail

    sizes = range(min(tiling.pixels, columns), 0, -1)
    whole = [Tiles(-(-columns // size), size, 0) for size in sizes]
    return min((*whole, *(Tiles(columns // s, s, columns % s) for s in sizes)), key=cost)


def pack(weight: np.ndarray, tiling: Tiling) -> np.ndarray:
    """(channels, taps, length) int8 -> flat int8: block, step, position in the step, then the multiply's own order."""
    channels, taps, length = weight.shape
    blocks, multiply = -(-channels // tiling.block), tiling.multiply
    each = length // tiling.span
    padded_each = -(-each // multiply.unit) * multiply.unit
    padded = np.zeros((blocks * tiling.block, taps, tiling.span, padded_each), np.int8)
    padded[:channels, :, :, :each] = weight.reshape(channels, taps, tiling.span, each)
    # block, tap, byte, channel in the block, position in the step -> parts of one kind of step
    ordered = padded.reshape(blocks, tiling.block, taps, tiling.span, padded_each).transpose(0, 2, 4, 3, 1)
    chunks = padded_each // CHUNK * CHUNK
    parts = []
    for part, size in ((ordered[:, :, :chunks], CHUNK), (ordered[:, :, chunks:], padded_each - chunks)):
        if part.size:
            cut = part.reshape(blocks, taps, -1, size, tiling.span, tiling.block).transpose(0, 1, 2, 4, 5, 3)
            parts.append(multiply.ordered(cut).reshape(blocks, -1))
    return np.concatenate(parts, axis=1).reshape(-1)


@dataclass(frozen=True, slots=True)
class Variant:
    """What the code of a kernel is specialised for; all else it reads at run time."""

    tiling: Tiling
    pixels: int  # of a tile
    tail: int  # pixels of the last one
    finish: Finish
    clamp: Clamp
    sum: Sum | None  # where the finish adds another image
    whole: bool  # it has steps of 16 bytes
    rest: int  # units of its shorter steps, 0 for none
    is_full: bool  # the last block has all its channels
    reads_signed: bool
    gather: Gather | None

    @property
    def writes_signed(self) -> bool:
        return (self.sum.clamp if self.sum else self.clamp).is_signed

    @property
    def symbol(self) -> str:
        pixels = f"_{self.pixels}" if self.pixels < self.tiling.pixels or self.tail else ""
        pixels += f"t{self.tail}" if self.tail else ""
        flags = (
            "s" if self.reads_signed else "",
            "w" if self.whole else "",
            f"r{self.rest}" if self.rest else "",
            "" if self.is_full else "p",
        )
        name = self.tiling.name.replace("/", "_")
        if self.gather:
            name += f"_gather{self.gather.rows}x{self.gather.length}s{self.gather.step}x{self.gather.pixels}"
        finish = f"{self.finish}{self.sum.suffix if self.sum else ''}"
        return f"hq_{name}{pixels}_{''.join(flags)}{self.clamp.suffix}_{finish}"


def kernel(variant: Variant) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] [tables, patches,] parameters)`."""
    tiling, finish, multiply = variant.tiling, variant.finish, variant.tiling.multiply
    block, span, gather = tiling.block, tiling.span, variant.gather

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        p, residual = rest[-1], rest[0] if finish is Finish.UINT8_ADD else None
        ending = Ending.begin(finish, variant.clamp, variant.sum, p)
        width = min(block, ending.width)
        is_signed = variant.reads_signed or gather is not None
        in_column = p[Parameter.IN_COLUMN] if gather is None else T.int32(gather.patch_bytes)
        whole, rests = p[Parameter.WHOLE], p[Parameter.RESTS]
        whole_bytes, rest_bytes = (span * block * size for size in (CHUNK, variant.rest * multiply.unit))

        def loop(
            acc: Buffer, sources: list[Buffer], weights: Buffer, first: Expr, units: int, is_start: bool
        ) -> None:
            pixels = len(sources) - span + 1
            count, size = (whole, whole_bytes) if units * multiply.unit == CHUNK else (rests, rest_bytes)

            def step(k: Expr, is_first: bool) -> None:
                offset = p[first + k]
                acts = [multiply.act(source, offset, units, is_signed) for source in sources]
                for position in range(span):
                    at = pointer(weights, k * size + position * (size // span))
                    part = acts[position : position + pixels]
                    multiply.step(acc, part, at, block, units, is_first and position == 0)

            starts = is_start and not multiply.starts_from_bias
            if starts:
                step(T.int32(0), is_first=True)
            else:  # so that LLVM has no path around the loop, with copies of all accumulators
                T.evaluate(T.call_llvm_intrin("void", "llvm.assume", count > 0))
            with T.serial(int(starts), count) as k:
                step(k, is_first=False)

        def accumulate(acc: Buffer, pixels: int, source: Buffer, weights: Buffer, n: Expr) -> None:
            multiply.begin(acc, pixels, bias, n * block, block)
            sources = [source]
            for _ in range(pixels + span - 2):
                sources.append(pointer(sources[-1], in_column))
            if variant.whole:
                loop(acc, sources, weights, T.int32(Parameter.OFFSETS), CHUNK // multiply.unit, True)
            if variant.rest:
                after = pointer(weights, whole * whole_bytes) if variant.whole else weights
                loop(acc, sources, after, Parameter.OFFSETS + whole, variant.rest, not variant.whole)

        def finished(acc: Buffer, m: int, first: int, n: Expr, extra: Expr | None) -> Expr:
            parts = range(first, first + width, LANES)
            totals = [multiply.total(acc, m, part, block, bias, n * block) for part in parts]
            return ending.finished(totals, [load(scale, n * block + part, LANES) for part in parts], extra)

        def write(acc: Buffer, pixels: int, target: Buffer, extras: Buffer | None, n: Expr) -> None:
            for m in range(pixels):
                for first in range(0, block, width):
                    extra = None if extras is None else load(extras, first, width)
                    store(target, finished(acc, m, first, n, extra), first, width)
                if m + 1 < pixels:
                    target = pointer(target, p[Parameter.OUT_COLUMN])
                    extras = None if extras is None else pointer(extras, p[RESIDUAL_COLUMN])

        def write_part(acc: Buffer, pixels: int, target: Buffer, extras: Buffer | None, n: Expr) -> None:
            """The channels that exist of a block that is not whole, through memory."""
            tail = local(target.dtype, pixels * block)
            exist = T.min(p[CHANNELS] - n * block, block)
            tail_in = tail if extras is None else local(extras.dtype, pixels * block)
            if extras is not None:  # the last pixel's residual may end its buffer: read no further
                with T.serial(0, pixels) as m, T.serial(0, exist) as j:
                    store(tail_in, extras[m * p[RESIDUAL_COLUMN] + j], m * block + j)
            for m in range(pixels):
                for first in range(0, block, width):
                    extra = None if extras is None else load(tail_in, m * block + first, width)
                    store(tail, finished(acc, m, first, n, extra), m * block + first, width)
            with T.serial(0, pixels) as m, T.serial(0, exist) as j:
                store(target, tail[m * block + j], m * p[Parameter.OUT_COLUMN] + j)

        write_block = write if variant.is_full else write_part

        def tiles(n: Expr, row: Expr, source: Buffer) -> None:
            weights = pointer(w, n * (whole * whole_bytes + rests * rest_bytes))
            target = pointer(y, row * p[Parameter.OUT_ROW] + n * block)
            extras = None if residual is None else pointer(residual, row * p[RESIDUAL_ROW] + n * block)

            def tile(pixels: int, first: Expr) -> None:
                acc = local("int32", multiply.registers(pixels, block) * LANES)
                at = T.bind(T.min(first, p[Parameter.COLUMNS] - pixels))
                accumulate(acc, pixels, pointer(source, at * in_column), weights, n)
                added = None if extras is None else pointer(extras, at * p[RESIDUAL_COLUMN])
                write_block(acc, pixels, pointer(target, at * p[Parameter.OUT_COLUMN]), added, n)

            with T.serial(0, p[Parameter.TILES]) as i:
                tile(variant.pixels, i * variant.pixels)
            if variant.tail:
                tile(variant.tail, p[Parameter.COLUMNS])

        if gather is None:
            with T.serial(0, p[Parameter.BLOCKS]) as n, T.serial(0, p[Parameter.ROWS]) as row:
                tiles(n, row, pointer(a, row * p[Parameter.IN_ROW]))
        else:
            tables, patches = rest[-3], rest[-2]
            first_tap = Parameter.OFFSETS + gather.patch_bytes // CHUNK  # behind the steps
            taps = [p[first_tap + tap] for tap in range(gather.rows)]
            with T.serial(0, p[Parameter.ROWS]) as row:
                line = pointer(a, row * p[Parameter.IN_ROW])
                keeps = variant.reads_signed or multiply.act_offset == 0
                emit_row(gather, line, patches, tables, taps, p[Parameter.COLUMNS], keeps)
                with T.serial(0, p[Parameter.BLOCKS]) as n:
                    tiles(n, row, patches)

    pointers = {
        "a": "int8" if variant.reads_signed else "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": "int8" if variant.writes_signed else finish.dtype,
        **({"residual": "int8" if variant.sum.reads_signed else "uint8"} if variant.sum else {}),
        **({"tables": "uint8", "patches": "int8"} if gather else {}),
        "parameters": "int32",
    }
    return prim_func(variant.symbol, pointers, body)
