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
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, prim_func, store
from haqnas.kernels.x86_finish import AVX2 as AVX2_MACHINE
from haqnas.kernels.x86_finish import AVX512, Machine, Narrowing, PackedEpilogue


class Parameter(IntEnum):
    """Positions in the parameter array of a dot-product kernel, after those of `finish`."""

    ROWS = OWN  # output rows
    COLUMNS = OWN + 1  # output pixels in a row
    BLOCKS = OWN + 2  # blocks of output channels
    TAPS = OWN + 3
    GROUPS = OWN + 4  # groups of input elements at a tap
    IN_ROW = OWN + 5  # bytes between the bases of two output rows
    IN_COLUMN = OWN + 6
    OUT_ROW = OWN + 7  # elements
    OUT_COLUMN = OWN + 8
    OFFSETS = OWN + 10  # one per tap


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
    """`pixels` x `vectors` of output channels are held in registers."""

    pixels: int
    vectors: int


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


def kernel(
    instructions: Instructions, tile: Tile, finish: Finish, narrowing: Narrowing | None = None
) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] parameters)`."""
    lanes, group = instructions.lanes, instructions.group
    block = block_channels(instructions, tile)
    vector_bytes = lanes * group

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        p, residual = rest[-1], rest[0] if finish is Finish.UINT8_ADD else None
        epilogue = instructions.epilogue(finish, narrowing, tile.vectors, p)
        spill = local("int32", tile.pixels * block)

        def tile_body(pixels: int, acc: Buffer, n: Expr, row: Expr, column: Expr) -> None:
            for m in range(pixels):
                for v in range(tile.vectors):
                    start = (m * tile.vectors + v) * lanes
                    store(acc, load(bias, n * block + v * lanes, lanes), start, lanes)
            base = row * p[Parameter.IN_ROW] + column * p[Parameter.IN_COLUMN]
            with T.serial(0, p[Parameter.TAPS]) as t:
                first = base + p[Parameter.OFFSETS + t]
                weights = (n * p[Parameter.TAPS] + t) * p[Parameter.GROUPS]
                with T.serial(0, p[Parameter.GROUPS]) as g:
                    acts = [
                        instructions.load_act(a, first + m * p[Parameter.IN_COLUMN] + g * group)
                        for m in range(pixels)
                    ]
                    for v in range(tile.vectors):
                        vector = instructions.load_weight(
                            w, ((weights + g) * tile.vectors + v) * vector_bytes
                        )
                        for m in range(pixels):
                            at_lane = (m * tile.vectors + v) * lanes
                            total = instructions.multiply_add(load(acc, at_lane, lanes), acts[m], vector)
                            store(acc, total, at_lane, lanes)
            # Through the stack, so that the code of the finish stands once and not once per pixel:
            # 12x16 shrank from 11.6 kB to a third.
            for v in range(pixels * tile.vectors):
                store(spill, load(acc, v * lanes, lanes), v * lanes, lanes)
            finished = Pixels(
                pixels,
                spill,
                lambda m: m * block,
                lambda m: row * p[Parameter.OUT_ROW] + (column + m) * p[Parameter.OUT_COLUMN],
                lambda m: row * p[RESIDUAL_ROW] + (column + m) * p[RESIDUAL_COLUMN],
            )
            epilogue.write(finished, Images(scale, y, residual), n)

        many = local("int32", tile.pixels * block)
        one = local("int32", block)
        with T.serial(0, p[Parameter.BLOCKS]) as n, T.serial(0, p[Parameter.ROWS]) as row:
            columns = p[Parameter.COLUMNS]
            with T.If(columns >= tile.pixels):
                with (
                    T.Then()
                ):  # the last tile of a row overlaps the one before: no pixel is worth a tile of its own
                    with T.serial(0, T.floordiv(columns + tile.pixels - 1, tile.pixels)) as i:
                        tile_body(tile.pixels, many, n, row, T.min(i * tile.pixels, columns - tile.pixels))
                with T.Else():
                    with T.serial(0, columns) as i:
                        tile_body(1, one, n, row, i)

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
