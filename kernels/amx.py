"""Dot-product family on AMX: tiles of 16 pixels x 64 bytes against 64 bytes x 16 channels.

The same sum over taps as in `dot.py`. Two tiles of pixels by two tiles of channels are held in the eight tile
registers: four accumulators, two tiles of A, two of W. Where a row of the output has fewer than 16 pixels, tiles are
that high; where it has more and 16 does not divide it, the last tile of a row overlaps the one before.

The caller guarantees: permission from the kernel (arch_prctl), a tile configuration from `configuration`, 4 KiB of
scratch, weights packed by `pack`, and 63 readable bytes after the last element of A (their weights are zero).
"""

from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels import x86_finish
from haqnas.kernels.finish import OWN, RESIDUAL_COLUMN, RESIDUAL_ROW, Finish, Pixels
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, prim_func

LANES = 16
PIXEL_TILES = 2
TILE_BYTES = 1024
CHUNK = 64  # elements of A that one tile row holds


def block_channels(vectors: int) -> int:
    """Output channels of a block."""
    return LANES * vectors


def scratch_bytes(vectors: int) -> int:
    """Workspace for the accumulators: two halves."""
    return 2 * PIXEL_TILES * 16 * block_channels(vectors) * 4


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    TILES = OWN  # tiles of pixels in the whole output
    ROW_TILES = OWN + 1  # in one row of the output
    HEIGHT = OWN + 2  # pixels of a tile
    COLUMNS = OWN + 3
    BLOCKS = OWN + 4
    TAPS = OWN + 5
    CHUNKS = OWN + 6  # tiles of 64 elements at a tap
    IN_ROW = OWN + 7
    IN_COLUMN = OWN + 8
    OUT_ROW = OWN + 9
    OUT_COLUMN = OWN + 10
    OFFSETS = OWN + 12


def tile_height(columns: int) -> int:
    """Pixels in a tile: 16, or the whole row where it is shorter."""
    return min(16, columns)


def configuration(height: int) -> np.ndarray:
    """The 64 bytes of LDTILECFG: palette 1, tiles 0..5 `height` rows (accumulators, A), 6 and 7 full (W)."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32:2] = 64  # bytes per row, 16 bits each
    config[48:56] = 16
    config[48:54] = height
    return config


def pack(weight: np.ndarray, vectors: int) -> np.ndarray:
    """(channels, taps, length) int8 -> flat int8: block, tap, chunk, vector, group of four, channel, element."""
    channels, taps, length = weight.shape
    block = block_channels(vectors)
    blocks, chunks = -(-channels // block), -(-length // CHUNK)
    padded = np.zeros((blocks * block, taps, chunks * CHUNK), np.int8)
    padded[:channels, :, :length] = weight
    split = padded.reshape(blocks, vectors, LANES, taps, chunks, 16, 4)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 1, 5, 2, 6)).reshape(-1)


def symbol(vectors: int, finish: Finish) -> str:
    """The C name of the kernel."""
    return f"hq_dot_amx_int8_{block_channels(vectors)}_{finish}"


def _tile(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _pointer(buffer: Buffer, index: Expr) -> Expr:
    return T.address_of(buffer[index])


def kernel(vectors: int, finish: Finish) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] scratch, configuration, parameters)`."""
    block = block_channels(vectors)

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        acc, config, p = rest[-3:]
        residual = rest[0] if finish is Finish.UINT8_ADD else None
        epilogue = x86_finish.epilogue(x86_finish.AVX512, finish, vectors, p)

        def place(tile: Expr) -> tuple[Expr, Expr]:
            """(row, first column) of a tile of pixels; a surplus tile repeats the last."""
            index = T.min(tile, p[Parameter.TILES] - 1)
            row = T.floordiv(index, p[Parameter.ROW_TILES])
            column = (index - row * p[Parameter.ROW_TILES]) * p[Parameter.HEIGHT]
            return row, T.min(column, p[Parameter.COLUMNS] - p[Parameter.HEIGHT])

        def accumulate(n: Expr, bases: list[Expr], half: Expr) -> None:
            for m in range(PIXEL_TILES):  # a stride of zero repeats the bias in every row of the tile
                for v in range(vectors):
                    start = _pointer(bias, n * block + v * LANES)
                    _tile("tileloadd64", T.uint8(m * vectors + v), start, T.int64(0))
            with T.serial(0, p[Parameter.TAPS]) as t, T.serial(0, p[Parameter.CHUNKS]) as k:
                tile = ((n * p[Parameter.TAPS] + t) * p[Parameter.CHUNKS] + k) * vectors
                for v in range(vectors):
                    _tile("tileloadd64", T.uint8(6 + v), _pointer(w, (tile + v) * TILE_BYTES), T.int64(64))
                stride = T.cast(p[Parameter.IN_COLUMN], "int64")
                for m in range(PIXEL_TILES):
                    source = bases[m] + p[Parameter.OFFSETS + t] + k * CHUNK
                    _tile("tileloadd64", T.uint8(4 + m), _pointer(a, source), stride)
                    for v in range(vectors):
                        _tile("tdpbusd", T.uint8(m * vectors + v), T.uint8(4 + m), T.uint8(6 + v))
            for m in range(PIXEL_TILES):
                for v in range(vectors):
                    target = _pointer(acc, half + m * 16 * block + v * LANES)
                    _tile("tilestored64", T.uint8(m * vectors + v), target, T.int64(4 * block))

        def finish_pair(n: Expr, places: list[tuple[Expr, Expr]], half: Expr) -> None:
            for m, (row, column) in enumerate(places):
                epilogue.write(pixels(half + m * 16 * block, row, column), scale, y, residual, n)

        def pixels(start: Expr, row: Expr, column: Expr) -> Pixels:
            """The pixels of a tile, whose accumulators begin at acc[start]."""
            out = row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN]
            extra = row * p[RESIDUAL_ROW] + column * p[RESIDUAL_COLUMN]
            return Pixels(
                p[Parameter.HEIGHT],
                acc,
                lambda i: start + i * block,
                lambda i: out + i * p[Parameter.OUT_COLUMN],
                lambda i: extra + i * p[RESIDUAL_COLUMN],
            )

        def step(index: Expr) -> tuple[Expr, list[tuple[Expr, Expr]], Expr]:
            """Block of channels, tiles of pixels and half of the scratch of a step."""
            n = T.floordiv(index, pairs)
            pair = index - n * pairs
            half = T.bitwise_and(index, 1) * (PIXEL_TILES * 16 * block)
            return n, [place(pair * PIXEL_TILES + m) for m in range(PIXEL_TILES)], half

        _tile("ldtilecfg", _pointer(config, 0))
        pairs = T.floordiv(p[Parameter.TILES] + PIXEL_TILES - 1, PIXEL_TILES)
        steps = p[Parameter.BLOCKS] * pairs
        # While the tiles of a step are multiplied, the vector units finish the step before: two halves of scratch.
        with T.serial(0, steps + 1) as index:
            with T.If(index < steps), T.Then():
                n, places, half = step(index)
                accumulate(n, [r * p[Parameter.IN_ROW] + c * p[Parameter.IN_COLUMN] for r, c in places], half)
            with T.If(index > 0), T.Then():
                finish_pair(*step(index - 1))
        _tile("tilerelease")

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        **finish.pointers,
        "acc": "int32",
        "config": "uint8",
        "parameters": "int32",
    }
    return prim_func(symbol(vectors, finish), pointers, body)
