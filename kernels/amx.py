"""Dot-product family on AMX: tiles of 16 pixels x 64 bytes against 64 bytes x 16 channels.

The same sum over taps as in `dot.py`. Two tiles of pixels by `vectors` tiles of channels are accumulated in tile
registers: a step. While the tile unit works on a step, the vector units finish the step before, a few pixels after each
chunk of the sum: the two hardly overlap otherwise, since the processor looks no further ahead than 512 instructions.

Vectors of 32 bytes finish: after a tile product whole vectors run at half their rate for some 200 cycles.

The caller guarantees: permission from the kernel (arch_prctl), a tile configuration from `configuration`, scratch,
weights packed by `pack`, and 63 readable bytes after the last element of A (their weights are zero).
"""

from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import OWN, RESIDUAL_COLUMN, RESIDUAL_ROW, Finish, Images, Pixels
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, local, prim_func, store
from haqnas.kernels.x86_finish import AVX512_HALF, Block, Narrowing, PackedEpilogue

LANES = 16
PIXEL_TILES = 2
TILE_BYTES = 1024
LINE_BYTES = 64  # of the caches
CHUNK = 64  # elements of A that one tile row holds


def block_channels(vectors: int) -> int:
    """Output channels of a block."""
    return LANES * vectors


def scratch_bytes(vectors: int) -> int:
    """The accumulators of a step."""
    return PIXEL_TILES * 16 * block_channels(vectors) * 4


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    STEPS = OWN
    INNER = OWN + 1  # steps of the inner loop
    PAIRS_INSIDE = OWN + 2  # 1: the inner loop is over pairs of pixel tiles, 0: over blocks of channels
    TILES = OWN + 3  # tiles of pixels in the whole output
    ROW_TILES = OWN + 4  # in one row of the output
    HEIGHT = OWN + 5  # pixels of a tile
    COLUMNS = OWN + 6
    TAPS = OWN + 7
    CHUNKS = OWN + 8  # tiles of 64 elements at a tap
    GROUPS = OWN + 9  # groups of pixels of a tile to finish after a chunk
    SKIP = OWN + 14  # chunks after which none is finished yet: the accumulators are on their way to scratch
    IN_ROW = OWN + 10
    IN_COLUMN = OWN + 11
    OUT_ROW = OWN + 12
    OUT_COLUMN = OWN + 13
    AHEAD = OWN + 15  # bytes of weights from the start to the first that is prefetched
    LINES = OWN + 16  # lines to prefetch at each chunk
    OFFSETS = OWN + 17


def tile_height(columns: int) -> int:
    """Pixels in a tile: a row is cut into as few tiles as possible, all of one height."""
    return -(-columns // -(-columns // 16))


def configuration(height: int, length: int) -> np.ndarray:
    """The 64 bytes of LDTILECFG: palette 1, tiles 0..3 accumulators, 4 and 5 A, 6 and 7 W.

    Taps shorter than a chunk are read no further than they reach: a row that crosses a cache line is slow to load.
    """
    groups = -(-min(length, CHUNK) // 4)
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32:2] = 64  # bytes per row, 16 bits each
    config[24:28:2] = 4 * groups
    config[48:54] = height
    config[54:56] = groups
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


def symbol(vectors: int, finish: Finish, narrowing: Narrowing) -> str:
    """The C name of the kernel."""
    return f"hq_dot_amx_int8_{block_channels(vectors)}_{finish}{narrowing.suffix}"


def _tile(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _pointer(buffer: Buffer, index: Expr) -> Expr:
    return T.address_of(buffer[index])


class Work(IntEnum):
    """Positions in the kernel's variables: what is computed now, and what is finished meanwhile."""

    OUTER = 0
    INNER = 1
    PENDING = 2  # groups of a tile to finish; none in the first step
    BLOCK = 3
    OUT = 4  # one per tile
    EXTRA = OUT + PIXEL_TILES
    COUNT = EXTRA + PIXEL_TILES


def kernel(vectors: int, finish: Finish, narrowing: Narrowing) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] scratch, configuration, parameters)`."""
    block = block_channels(vectors)

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        acc, config, p = rest[-3:]
        images = Images(scale, y, rest[0] if finish is Finish.UINT8_ADD else None)
        epilogue = PackedEpilogue.begin(AVX512_HALF, finish, narrowing, 2 * vectors, p)
        work = local("int32", Work.COUNT)

        def place(tile: Expr) -> tuple[Expr, Expr]:
            """(row, first column) of a tile of pixels; a surplus tile repeats the last."""
            index = T.bind(T.min(tile, p[Parameter.TILES] - 1))
            row = T.bind(T.truncdiv(index, p[Parameter.ROW_TILES]))
            column = (index - row * p[Parameter.ROW_TILES]) * p[Parameter.HEIGHT]
            return row, T.bind(T.min(column, p[Parameter.COLUMNS] - p[Parameter.HEIGHT]))

        def start(n: Expr) -> None:
            for m in range(PIXEL_TILES):  # a stride of zero repeats the bias in every row of the tile
                for v in range(vectors):
                    source = _pointer(bias, n * block + v * LANES)
                    _tile("tileloadd64", T.uint8(m * vectors + v), source, T.int64(0))

        def load(n: Expr, bases: list[Expr], t: Expr, k: Expr) -> None:
            tile = ((n * p[Parameter.TAPS] + t) * p[Parameter.CHUNKS] + k) * vectors
            for v in range(vectors):
                _tile("tileloadd64", T.uint8(6 + v), _pointer(w, (tile + v) * TILE_BYTES), T.int64(64))
            stride = T.cast(p[Parameter.IN_COLUMN], "int64")
            for m in range(PIXEL_TILES):
                source = bases[m] + p[Parameter.OFFSETS + t] + k * CHUNK
                _tile("tileloadd64", T.uint8(4 + m), _pointer(a, source), stride)

        def prefetch(chunk: Expr) -> None:
            """Fetch weights that are read later into the second-level cache, evenly over the whole kernel."""
            first = p[Parameter.AHEAD] + chunk * (p[Parameter.LINES] * LINE_BYTES)
            with T.serial(0, p[Parameter.LINES]) as i:
                address = _pointer(w, first + i * LINE_BYTES)
                T.evaluate(
                    T.call_llvm_intrin("void", "llvm.prefetch", address, T.int32(0), T.int32(2), T.int32(1))
                )

        def multiply() -> None:
            for m in range(PIXEL_TILES):
                for v in range(vectors):
                    _tile("tdpbusd", T.uint8(m * vectors + v), T.uint8(4 + m), T.uint8(6 + v))

        def keep() -> None:
            for m in range(PIXEL_TILES):
                for v in range(vectors):
                    target = _pointer(acc, m * 16 * block + v * LANES)
                    _tile("tilestored64", T.uint8(m * vectors + v), target, T.int64(4 * block))

        def end(chunk: Expr, ending: Block) -> None:
            """Finish some pixels of the step before, in the time that a chunk of this one takes."""
            before = (chunk - p[Parameter.SKIP]) * p[Parameter.GROUPS]
            count = T.min(p[Parameter.GROUPS], work[Work.PENDING] - before)
            with T.serial(0, T.if_then_else(chunk < p[Parameter.SKIP], 0, count)) as group:
                for m in range(PIXEL_TILES):
                    epilogue.write_group(pixels(m), before + group, images, ending)

        def pixels(m: int) -> Pixels:
            """The pixels of tile m of the step before."""
            return Pixels(
                p[Parameter.HEIGHT],
                acc,
                lambda i: (m * 16 + i) * block,
                lambda i: work[Work.OUT + m] + i * p[Parameter.OUT_COLUMN],
                lambda i: work[Work.EXTRA + m] + i * p[RESIDUAL_COLUMN],
            )

        def advance(n: Expr, places: list[tuple[Expr, Expr]]) -> None:
            """The step just computed becomes the one to finish."""
            store(work, epilogue.groups(p[Parameter.HEIGHT]), Work.PENDING)
            store(work, n, Work.BLOCK)
            for m, (row, column) in enumerate(places):
                store(work, row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN], Work.OUT + m)
                if images.residual is not None:
                    store(work, row * p[RESIDUAL_ROW] + column * p[RESIDUAL_COLUMN], Work.EXTRA + m)
            last = work[Work.INNER] + 1 == p[Parameter.INNER]
            outer = T.bind(work[Work.OUTER] + T.cast(last, "int32"))
            store(work, T.if_then_else(last, 0, work[Work.INNER] + 1), Work.INNER)
            store(work, outer, Work.OUTER)

        _tile("ldtilecfg", _pointer(config, 0))
        for position in range(Work.COUNT):
            store(work, T.int32(0), position)
        with T.serial(0, p[Parameter.STEPS] + 1) as step:  # one more, to finish the last
            is_live = step < p[Parameter.STEPS]
            inside = p[Parameter.PAIRS_INSIDE] == 1
            n = T.bind(T.if_then_else(inside, work[Work.OUTER], work[Work.INNER]))
            pair = T.bind(T.if_then_else(inside, work[Work.INNER], work[Work.OUTER]))
            places = [place(pair * PIXEL_TILES + m) for m in range(PIXEL_TILES)]
            bases = [T.bind(r * p[Parameter.IN_ROW] + c * p[Parameter.IN_COLUMN]) for r, c in places]
            ending = epilogue.block(work[Work.BLOCK])
            # The first tiles are loaded before the accumulators of the step before are stored: a load waits for every
            # earlier store whose address agrees in the lower 12 bits, and scratch has them all.
            with T.If(is_live), T.Then():
                load(n, bases, T.int32(0), T.int32(0))
            with T.If(step > 0), T.Then():
                keep()
            with T.If(is_live), T.Then():
                start(n)
            with T.serial(0, p[Parameter.TAPS]) as t, T.serial(0, p[Parameter.CHUNKS]) as k:
                chunk = t * p[Parameter.CHUNKS] + k
                with T.If(is_live), T.Then():
                    with T.If(chunk > 0), T.Then():
                        load(n, bases, t, k)
                    multiply()
                    prefetch(step * (p[Parameter.TAPS] * p[Parameter.CHUNKS]) + chunk)
                end(chunk, ending)
            advance(n, places)
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
    return prim_func(symbol(vectors, finish, narrowing), pointers, body)
