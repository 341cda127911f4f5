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

from haqnas.kernels.tir import Buffer, Expr, PrimFunc, clamp_bounds, convert, load, local, prim_func, requantized, store

LANES = 16
VECTORS = 2  # tiles of channels in a block
PIXEL_TILES = 2
BLOCK = LANES * VECTORS
TILE_BYTES = 1024
CHUNK = 64  # elements of A that one tile row holds
SCRATCH_BYTES = PIXEL_TILES * 16 * BLOCK * 4


class Parameter(IntEnum):
    """Positions in the parameter array."""

    TILES = 0  # tiles of pixels in the whole output
    ROW_TILES = 1  # in one row of the output
    HEIGHT = 2  # pixels of a tile
    COLUMNS = 3
    BLOCKS = 4
    CHANNELS = 5
    TAPS = 6
    CHUNKS = 7  # tiles of 64 elements at a tap
    IN_ROW = 8
    IN_COLUMN = 9
    OUT_ROW = 10
    OUT_COLUMN = 11
    ZERO_POINT = 12
    LOW = 13
    HIGH = 14
    OFFSETS = 16


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


def pack(weight: np.ndarray) -> np.ndarray:
    """(channels, taps, length) int8 -> flat int8: block, tap, chunk, vector, group of four, channel, element."""
    channels, taps, length = weight.shape
    blocks, chunks = -(-channels // BLOCK), -(-length // CHUNK)
    padded = np.zeros((blocks * BLOCK, taps, chunks * CHUNK), np.int8)
    padded[:channels, :, :length] = weight
    split = padded.reshape(blocks, VECTORS, LANES, taps, chunks, 16, 4)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 1, 5, 2, 6)).reshape(-1)


def symbol(out_dtype: str) -> str:
    return f"hq_dot_amx_int8_{out_dtype}"


def _tile(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _pointer(buffer: Buffer, index: Expr) -> Expr:
    return T.address_of(buffer[index])


def kernel(out_dtype: str) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, scratch, configuration, parameters)`."""

    def body(
        a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, acc: Buffer, config: Buffer, p: Buffer
    ) -> None:
        tail = local(out_dtype, BLOCK)
        bounds = clamp_bounds(p, Parameter.ZERO_POINT)

        def place(tile: Expr) -> tuple[Expr, Expr]:
            """(row, first column) of a tile of pixels; a surplus tile repeats the last."""
            index = T.min(tile, p[Parameter.TILES] - 1)
            row = T.floordiv(index, p[Parameter.ROW_TILES])
            column = (index - row * p[Parameter.ROW_TILES]) * p[Parameter.HEIGHT]
            return row, T.min(column, p[Parameter.COLUMNS] - p[Parameter.HEIGHT])

        def accumulate(n: Expr, bases: list[Expr]) -> None:
            for m in range(PIXEL_TILES):
                for v in range(VECTORS):
                    _tile("tilezero", T.uint8(m * VECTORS + v))
            with T.serial(0, p[Parameter.TAPS]) as t, T.serial(0, p[Parameter.CHUNKS]) as k:
                tile = ((n * p[Parameter.TAPS] + t) * p[Parameter.CHUNKS] + k) * VECTORS
                for v in range(VECTORS):
                    _tile("tileloadd64", T.uint8(6 + v), _pointer(w, (tile + v) * TILE_BYTES), T.int64(64))
                stride = T.cast(p[Parameter.IN_COLUMN], "int64")
                for m in range(PIXEL_TILES):
                    source = bases[m] + p[Parameter.OFFSETS + t] + k * CHUNK
                    _tile("tileloadd64", T.uint8(4 + m), _pointer(a, source), stride)
                    for v in range(VECTORS):
                        _tile("tdpbusd", T.uint8(m * VECTORS + v), T.uint8(4 + m), T.uint8(6 + v))
            for m in range(PIXEL_TILES):
                for v in range(VECTORS):
                    target = _pointer(acc, m * 16 * BLOCK + v * LANES)
                    _tile("tilestored64", T.uint8(m * VECTORS + v), target, T.int64(4 * BLOCK))

        def finished(start: Expr, v: int, n: Expr) -> Expr:
            total = load(acc, start + v * LANES, LANES) + load(bias, n * BLOCK + v * LANES, LANES)
            factor = load(scale, n * BLOCK + v * LANES, LANES)
            if out_dtype == "float32":
                return convert(total, "float32", LANES) * factor
            return requantized(total, factor, bounds, LANES)

        def write_pixel(start: Expr, n: Expr, out: Expr) -> None:
            with T.If((n + 1) * BLOCK <= p[Parameter.CHANNELS]):
                with T.Then():
                    for v in range(VECTORS):
                        store(y, finished(start, v, n), out + n * BLOCK + v * LANES, LANES)
                with T.Else():
                    for v in range(VECTORS):
                        store(tail, finished(start, v, n), v * LANES, LANES)
                    with T.serial(0, p[Parameter.CHANNELS] - n * BLOCK) as j:
                        store(y, tail[j], out + n * BLOCK + j)

        _tile("ldtilecfg", _pointer(config, 0))
        pairs = T.floordiv(p[Parameter.TILES] + PIXEL_TILES - 1, PIXEL_TILES)
        with T.serial(0, p[Parameter.BLOCKS]) as n, T.serial(0, pairs) as pair:
            places = [place(pair * PIXEL_TILES + m) for m in range(PIXEL_TILES)]
            accumulate(n, [r * p[Parameter.IN_ROW] + c * p[Parameter.IN_COLUMN] for r, c in places])
            for m, (row, column) in enumerate(places):
                with T.serial(0, p[Parameter.HEIGHT]) as i:
                    out = row * p[Parameter.OUT_ROW] + (column + i) * p[Parameter.OUT_COLUMN]
                    write_pixel((m * 16 + i) * BLOCK, n, out)
        _tile("tilerelease")

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": out_dtype,
        "acc": "int32",
        "config": "uint8",
        "parameters": "int32",
    }
    return prim_func(symbol(out_dtype), pointers, body)
