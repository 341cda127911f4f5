"""Dot-product family: convolution and linear layers as sums over taps of contiguous channels.

    Y[p, n] = requantize(bias[n] + sum over taps t, elements l: A[p + offset[t], l] * W[n, t, l])

A pixel p of the output starts at a base address of the input; tap t adds a fixed offset; at each tap `length`
consecutive bytes are multiplied. Where pixels lie next to each other in memory a tap is a whole row of the filter
(kw * channels bytes), otherwise one position (channels bytes). A linear layer has one tap. Padding is a halo of zero
points around the input buffer, so there are no branches.

All shapes are read from `parameters` at run time: one compiled function serves every layer, which keeps programs
small and compile times short. The tile (pixels x vectors of output channels) is fixed in the code.

The caller guarantees: weights packed by `pack`, bias and scale padded to whole blocks, and `group - 1` readable bytes
after the last element of A (their weights are zero).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import OWN, RESIDUAL_COLUMN, RESIDUAL_ROW, Epilogue, Finish, Images, Pixels
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, pointer, prefetch, prim_func, store
from haqnas.kernels.x86_finish import AVX2 as AVX2_MACHINE
from haqnas.kernels.x86_finish import AVX512, Machine, Narrowing, PackedEpilogue


class Parameter(IntEnum):
    """Positions in the parameter array of a dot-product kernel, after those of `finish`."""

    ROWS = OWN  # output rows
    COLUMNS = OWN + 1  # output pixels in a row
    BLOCKS = OWN + 2  # of output channels, in the loop outside of the pixels
    TAPS = OWN + 3
    GROUPS = OWN + 4  # groups of input elements at a tap
    IN_ROW = OWN + 5  # bytes between the bases of two output rows
    IN_COLUMN = OWN + 6
    OUT_ROW = OWN + 7  # elements
    OUT_COLUMN = OWN + 8
    STRIPS = OWN + 9  # rows, or pairs of rows: the last pair may overlap the one before
    STRIP_ROWS = OWN + 10
    LAST_ROW = OWN + 11
    TILES = OWN + 12  # of a strip; the last one may overlap the one before
    TILE_COLUMNS = OWN + 13
    LAST_COLUMN = OWN + 14
    PART_IN = OWN + 15  # bytes from the first part of a tile to the second
    PART_OUT = OWN + 16  # elements between the end of the first part and the second
    PART_RESIDUAL = OWN + 17
    BLOCKS_INSIDE = OWN + 18  # of output channels, in the loop inside of the pixels; this or BLOCKS is 1
    AHEAD = OWN + 19  # bytes of the next block's weights that are fetched at each group of a tile
    OFFSETS = OWN + 20  # one per tap


@dataclass(frozen=True, slots=True)
class Instructions:
    """How an instruction set multiplies: `group` consecutive elements of A by `lanes` output channels at once."""

    isa: str
    lanes: int
    group: int
    signed_act: bool  # A - 128 is multiplied; the bias makes up for it
    load_act: Callable[[Buffer, Expr], Expr]
    load_weight: Callable[[Buffer, Expr], Expr]
    multiply_add: Callable[[Expr, Expr, Expr], Expr]
    order: tuple[int, ...]  # axes of (channel, element halves, element) in the order of memory
    splits: tuple[int, int]  # group = splits[0] * splits[1]
    machine: Machine | None = None
    fetches_ahead: bool = False  # weights of the next block while this one is multiplied

    def epilogue(
        self, finish: Finish, narrowing: Narrowing | None, vectors: int, parameters: Buffer
    ) -> Epilogue | PackedEpilogue:
        """How tiles of so many vectors end."""
        if self.machine is None or narrowing is None:
            return Epilogue.begin(finish, self.lanes, vectors, parameters)
        return PackedEpilogue.begin(self.machine, finish, narrowing, vectors, parameters)


def _portable_act(a: Buffer, index: Expr) -> Expr:
    return T.broadcast(T.cast(a[index], "int32"), 4)


def _portable_weight(w: Buffer, index: Expr) -> Expr:
    return T.cast(load(w, index, 4), "int32x4")


PORTABLE = Instructions(
    "portable", 4, 1, False, _portable_act, _portable_weight, lambda acc, a, w: acc + a * w, (0, 1, 2), (1, 1)
)


def _rvv_act(a: Buffer, index: Expr) -> Expr:
    return T.broadcast(T.cast(T.cast(a[index], "int16"), "int32"), 16)


def _rvv_weight(w: Buffer, index: Expr) -> Expr:
    return T.cast(T.cast(load(w, index, 16), "int16x16"), "int32x16")


# Sixteen channels: four registers of 128 bits. LLVM makes one vwmacc.vx of a product of 16-bit numbers and its sum.
RVV = Instructions(
    "rvv", 16, 1, False, _rvv_act, _rvv_weight, lambda acc, a, w: acc + a * w, (0, 1, 2), (1, 1)
)


def _four_bytes(a: Buffer, index: Expr) -> Expr:
    return T.reinterpret("int32", load(a, index, 4))


def _vnni_act(a: Buffer, index: Expr) -> Expr:
    return T.reinterpret("uint8x64", T.broadcast(_four_bytes(a, index), 16))


def _vnni(acc: Expr, a: Expr, w: Expr) -> Expr:
    return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, a, w)


AVX512_VNNI = Instructions(
    "avx512-vnni",
    16,
    4,
    False,
    _vnni_act,
    lambda w, i: load(w, i, 64),
    _vnni,
    (0, 1, 2),
    (1, 4),
    AVX512,
    fetches_ahead=True,
)


def _avx2_act(a: Buffer, index: Expr) -> Expr:
    # Two bytes become two 16-bit numbers of one 32-bit word. vpmaddubsw would take bytes as they are, but its
    # 16-bit sums saturate with full-range weights, so it is not exact.
    pair = T.cast(T.reinterpret("uint16", load(a, index, 2)), "int32")
    spread = T.bitwise_and(T.bitwise_or(pair, T.shift_left(pair, 8)), 0x00FF00FF)
    return T.reinterpret("int16x16", T.broadcast(spread, 8))


def _avx2(acc: Expr, a: Expr, w: Expr) -> Expr:
    return acc + T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.pmadd.wd", a, w)


AVX2 = Instructions(
    "avx2",
    8,
    2,
    False,
    _avx2_act,
    lambda w, i: T.cast(load(w, i, 16), "int16x16"),
    _avx2,
    (0, 1, 2),
    (1, 2),
    AVX2_MACHINE,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """`parts` times `length` pixels by `vectors` of output channels are held in registers.

    The pixels of a part lie side by side. Where a second part lies is known at run time: beside the first, or over its
    end (so rows may be shorter than two parts), or in the next row.
    """

    length: int
    vectors: int
    parts: int = 1  # or 2
    takes_short_rows: bool = True  # shorter than a part, pixel by pixel

    @property
    def pixels(self) -> int:
        return self.parts * self.length


@dataclass(frozen=True, slots=True)
class Cover:
    """How tiles cover an image: `strips` of one or two rows, `tiles` side by side in each."""

    strip_rows: int
    strips: int
    tiles: int
    tile_columns: int
    covered: int  # columns of a tile

    @classmethod
    def of(cls, tile: Tile, rows: int, columns: int) -> "Cover":
        """The one with the fewest tiles; a row has a part's columns at least."""
        whole, part = tile.pixels, tile.length
        by_row = cls(1, rows, -(-columns // whole), whole, min(whole, columns))
        by_two = cls(2, -(-rows // 2), -(-columns // part), part, part)
        is_paired = tile.parts == 2 and rows > 1 and by_two.count < by_row.count
        return by_two if is_paired else by_row

    @property
    def count(self) -> int:
        """Tiles in all."""
        return self.strips * self.tiles


def block_channels(instructions: Instructions, tile: Tile) -> int:
    """Output channels of a block."""
    return instructions.lanes * tile.vectors


def pack(weight: np.ndarray, instructions: Instructions, tile: Tile) -> np.ndarray:
    """(channels, taps, length) int8 -> flat int8 in the order in which the kernel reads, padded with zeros.

    Order: block, tap, group, vector, then the instruction set's own order of (channel, element).
    """
    block = block_channels(instructions, tile)
    channels, taps, length = weight.shape
    blocks, groups = -(-channels // block), -(-length // instructions.group)
    padded = np.zeros((blocks * block, taps, groups * instructions.group), np.int8)
    padded[:channels, :, :length] = weight
    split = padded.reshape(
        blocks, tile.vectors, instructions.lanes, taps, groups, instructions.splits[0], instructions.splits[1]
    )
    inner = tuple((2, 5, 6)[axis] for axis in instructions.order)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 1, *inner)).reshape(-1)


def symbol(instructions: Instructions, tile: Tile, finish: Finish, narrowing: Narrowing | None = None) -> str:
    """The C name of the kernel."""
    isa, suffix = instructions.isa.replace("-", "_"), narrowing.suffix if narrowing else ""
    return f"hq_dot_{isa}_{tile.pixels}x{block_channels(instructions, tile)}_{finish}{suffix}"


@dataclass(frozen=True, slots=True)
class Operands:
    """What tiles are sums of."""

    a: Buffer
    w: Buffer
    bias: Buffer
    parameters: Buffer


@dataclass(frozen=True, slots=True)
class Place:
    """A tile of block `block`, its first pixel, and how many tiles of the block came before."""

    block: Expr
    row: Expr
    column: Expr
    number: Expr


def kernel(
    instructions: Instructions, tile: Tile, finish: Finish, narrowing: Narrowing | None = None
) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] parameters)`."""
    block = block_channels(instructions, tile)

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        p, residual = rest[-1], rest[0] if finish is Finish.UINT8_ADD else None
        epilogue = instructions.epilogue(finish, narrowing, tile.vectors, p)
        spill = local("int32", tile.pixels * block)

        def tile_body(shape: Tile, acc: Buffer, place: Place) -> None:
            _accumulate(instructions, shape, Operands(a, w, bias, p), acc, place)
            # Through the stack where the finish loops over pixels; LLVM keeps it in registers where it does not.
            for v in range(shape.pixels * shape.vectors):
                at_lane = v * instructions.lanes
                store(spill, load(acc, at_lane, instructions.lanes), at_lane, instructions.lanes)

            def at(of_row: int, of_column: int, of_part: int) -> Callable[[Expr], Expr]:
                """Where pixel m of the tile lies in an image."""
                first = T.bind(place.row * p[of_row] + place.column * p[of_column])
                step = _scalar(p, of_column)
                if shape.parts == 1:
                    return lambda m: first + m * step
                return lambda m: first + m * step + (0 if m < shape.length else _scalar(p, of_part))

            finished = Pixels(
                shape.pixels,
                spill,
                lambda m: m * block,
                at(Parameter.OUT_ROW, Parameter.OUT_COLUMN, Parameter.PART_OUT),
                at(RESIDUAL_ROW, RESIDUAL_COLUMN, Parameter.PART_RESIDUAL),
            )
            epilogue.write(finished, Images(scale, y, residual), place.block)

        def tiles(first_block: Expr) -> None:
            many = local("int32", tile.pixels * block)
            with T.serial(0, p[Parameter.STRIPS]) as strip, T.serial(0, p[Parameter.TILES]) as i:
                row = T.bind(T.min(strip * p[Parameter.STRIP_ROWS], p[Parameter.LAST_ROW]))
                column = T.bind(T.min(i * p[Parameter.TILE_COLUMNS], p[Parameter.LAST_COLUMN]))
                with T.serial(0, p[Parameter.BLOCKS_INSIDE]) as n:
                    number = strip * p[Parameter.TILES] + i
                    tile_body(tile, many, Place(first_block + n, row, column, number))

        def single_pixels(first_block: Expr) -> None:
            one = local("int32", block)
            with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.COLUMNS]) as column:
                with T.serial(0, p[Parameter.BLOCKS_INSIDE]) as n:
                    tile_body(Tile(1, tile.vectors), one, Place(first_block + n, row, column, T.int32(0)))

        with T.serial(0, p[Parameter.BLOCKS]) as first_block:
            if not tile.takes_short_rows:
                tiles(first_block)
                return
            with T.If(p[Parameter.COLUMNS] >= tile.length):
                with T.Then():
                    tiles(first_block)
                with T.Else():
                    single_pixels(first_block)

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        **finish.pointers,
        "parameters": "int32",
    }
    return prim_func(symbol(instructions, tile, finish, narrowing), pointers, body)


def _scalar(p: Buffer, position: int) -> Expr:
    """A parameter as a number that addresses are made from: with 32 bits each address would be widened anew."""
    return T.bind(T.cast(p[position], "int64"))


def _accumulate(
    instructions: Instructions, tile: Tile, operands: Operands, acc: Buffer, place: Place
) -> None:
    """acc = the sums of a tile."""
    p, lanes = operands.parameters, instructions.lanes
    for m in range(tile.pixels):
        for v in range(tile.vectors):
            at_bias = place.block * block_channels(instructions, tile) + v * lanes
            store(acc, load(operands.bias, at_bias, lanes), (m * tile.vectors + v) * lanes, lanes)
    group_bytes = tile.vectors * lanes * instructions.group
    step, ahead_bytes = _scalar(p, Parameter.IN_COLUMN), _scalar(p, Parameter.AHEAD)
    base = T.bind(place.row * p[Parameter.IN_ROW] + place.column * p[Parameter.IN_COLUMN])
    block_groups = T.bind(p[Parameter.TAPS] * p[Parameter.GROUPS])
    next_block = T.bind((place.block + 1) * block_groups * group_bytes)
    with T.serial(0, p[Parameter.TAPS]) as t:
        first = base + p[Parameter.OFFSETS + t]
        parts = [pointer(operands.a, first + k * p[Parameter.PART_IN]) for k in range(tile.parts)]
        done = t * p[Parameter.GROUPS]
        weights = pointer(operands.w, (place.block * block_groups + done) * group_bytes)
        ahead = pointer(operands.w, next_block + (place.number * block_groups + done) * p[Parameter.AHEAD])
        with T.serial(T.int64(0), T.cast(p[Parameter.GROUPS], "int64")) as g:
            if instructions.fetches_ahead:
                prefetch(ahead, g * ahead_bytes)
            vectors = [
                T.bind(instructions.load_weight(weights, g * group_bytes + v * (group_bytes // tile.vectors)))
                for v in range(tile.vectors)
            ]
            # Pixel by pixel: of the activations, one vector at a time needs a register.
            for m in range(tile.pixels):
                source = parts[m // tile.length]
                act = T.bind(instructions.load_act(source, g * instructions.group + m % tile.length * step))
                for v in range(tile.vectors):
                    at_lane = (m * tile.vectors + v) * lanes
                    total = instructions.multiply_add(load(acc, at_lane, lanes), act, vectors[v])
                    store(acc, total, at_lane, lanes)
