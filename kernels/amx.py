"""Dot-product family on AMX: tiles of 16 pixels x 64 bytes against 64 bytes x 16 channels.

The same sum over taps as in `dot.py`. Four tiles are accumulated in tile registers, a step: two tiles of pixels by
two of channels, or four by one, which reads weights half as often and pixels twice. While the tile unit works on a
step, the vector units finish the step before, a few pixels after each chunk of the sum: the two hardly overlap
otherwise, since the processor looks no further ahead than 512 instructions.

Vectors of 64 bytes finish, although they share a port with the tile unit and 32 bytes overlap better: a ResNet-50
took 6.10 ms with vectors of 32 bytes and takes 5.57 ms, and no layer got slower. Finishing two steps later instead of
one gained nothing.

The caller guarantees: permission from the kernel (arch_prctl), a tile configuration from `configuration`, scratch,
weights packed by `pack`, and 63 readable bytes after the last element of A (their weights are zero).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from haqnas.kernels import amx_unpack
from haqnas.kernels.amx_unpack import Unpacking
from haqnas.kernels.finish import OWN, RESIDUAL_COLUMN, RESIDUAL_ROW, Finish, Images, Pixels
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, local, prim_func, store
from haqnas.kernels.x86_finish import AVX512, Block, Narrowing, PackedEpilogue

LANES = 16
TILES = 8  # of the register file
TILE_PIXELS = 16
TILE_BYTES = 1024
LINE_BYTES = 64  # of the caches
CHUNK = 64  # elements of A that one tile row holds


@dataclass(frozen=True, slots=True)
class Step:
    """Tiles of `pixels` by tiles of output channels (`vectors`) that are accumulated together."""

    pixels: int
    vectors: int

    @property
    def channels(self) -> int:
        """Of a block."""
        return LANES * self.vectors

    @property
    def scratch_bytes(self) -> int:
        """For the accumulators."""
        return self.pixels * TILE_PIXELS * self.channels * 4

    @property
    def first_weight(self) -> int:
        """Tile registers from here on hold weights; those between accumulators and weights hold A."""
        return TILES - self.vectors


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    STEPS = OWN
    INNER = OWN + 1  # steps of the inner loop
    PIXELS_INSIDE = OWN + 2  # 1: the inner loop is over pixels, 0: over blocks of channels
    ROW_TILES = OWN + 3  # in one row of the output
    HEIGHT = OWN + 4  # pixels of a tile
    FOLD = OWN + 5  # rows of the output in a tile
    LAST_ROW = OWN + 6  # where the last tile starts
    LAST_COLUMN = OWN + 7
    WRAP = OWN + 8  # pixel i of a tile lies i * WRAP / 256 rows below the first
    IN_ROW = OWN + 9
    IN_COLUMN = OWN + 10
    OUT_ROW = OWN + 11
    OUT_COLUMN = OWN + 12
    OUT_GAP = OWN + 13  # from behind a row of a tile to the next one, less what lies between them in A
    RESIDUAL_GAP = OWN + 14
    SUMS = OWN + 15  # chunks of all taps
    GROUPS = OWN + 16  # groups of pixels of each tile to finish after a chunk
    SKIP = OWN + 17  # chunks after which none is finished yet: the accumulators are on their way to scratch
    AHEAD = OWN + 18  # bytes of weights from the start to the first that is prefetched
    LINES = OWN + 19  # lines to prefetch at each chunk
    KEPT = OWN + 20  # bytes of unpacked weights between blocks: 0 where one block is kept
    RING = OWN + 21  # chunks of a block that are kept, less one
    OFFSETS = OWN + 22  # of each chunk of each tap


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an output is cut into tiles of `height` pixels, all alike; the last may overlap the one before.

    A tile is a part of a row, or holds `fold` short rows with the pixels of A that lie between them, `pitch` pixels
    from row to row: 7x7 pixels of an image with a border are 4 tiles instead of 7, and weights are loaded half as
    often. What is computed from the pixels between is written where the border or the next row follows, before that is.
    """

    height: int
    in_row: int  # tiles
    fold: int = 1
    pitch: int = 0

    @classmethod
    def of(cls, rows: int, columns: int, pitch: int) -> "Tiling":
        """`pitch`: pixels from one row of A to the next, 0 where that is no whole number."""
        if rows > 1 and columns <= pitch <= 2 * columns:  # no further than into the next row
            fold = min(rows, (TILE_PIXELS - columns) // pitch + 1)
            if fold > 1:
                return cls((fold - 1) * pitch + columns, 1, fold, pitch)
        in_row = -(-columns // TILE_PIXELS)
        return cls(-(-columns // in_row), in_row)

    def tiles(self, rows: int) -> int:
        """Of so many rows."""
        return -(-rows // self.fold) * self.in_row

    @property
    def wrap(self) -> int:
        """256 / pitch, rounded up: exact for the few pixels of a tile."""
        return -(-256 // self.pitch) if self.pitch else 0


def configuration(step: Step, height: int, length: int) -> np.ndarray:
    """The 64 bytes of LDTILECFG: palette 1, tiles of accumulators, of A, of W.

    Taps shorter than a chunk are read no further than they reach: a row that crosses a cache line is slow to load.
    """
    groups = -(-min(length, CHUNK) // 4)
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32:2] = 64  # bytes per row, 16 bits each
    first_act = step.pixels * step.vectors
    config[16 + 2 * first_act : 16 + 2 * step.first_weight : 2] = 4 * groups
    config[48 : 48 + step.first_weight] = height
    config[48 + step.first_weight : 56] = groups
    return config


def pack(weight: np.ndarray, step: Step, bits: int) -> np.ndarray:
    """(channels, taps, length) int8 -> packed: block, tap, chunk, vector, group of four, channel, element."""
    channels, taps, length = weight.shape
    block = step.channels
    blocks, chunks = -(-channels // block), -(-length // CHUNK)
    padded = np.zeros((blocks * block, taps, chunks * CHUNK), np.int8)
    padded[:channels, :, :length] = weight
    split = padded.reshape(blocks, step.vectors, LANES, taps, chunks, 16, 4)
    ordered = np.ascontiguousarray(split.transpose(0, 3, 4, 1, 5, 2, 6)).reshape(-1)
    return amx_unpack.pack(ordered, bits) if bits < 8 else ordered


def symbol(step: Step, bits: int, finish: Finish, narrowing: Narrowing, is_dense: bool) -> str:
    """The C name of the kernel."""
    width, dense = f"_w{bits}" if bits < 8 else "", "_dense" if is_dense else ""
    return f"hq_dot_amx_int8_{step.pixels}x{step.channels}{width}_{finish}{dense}{narrowing.suffix}"


def _tile(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _pointer(buffer: Buffer, index: Expr) -> Expr:
    return T.address_of(buffer[index])


class Work(IntEnum):
    """Positions in the kernel's variables: what is computed now, and what is finished meanwhile."""

    OUTER = 0
    INNER = 1
    LINE = 2  # of the first tile of the group of tiles that is computed: row of tiles, tile in it
    PLACE = 3
    PENDING = 4  # groups of a tile to finish; none in the first step
    BLOCK = 5


@dataclass(frozen=True, slots=True)
class Places:
    """A group of tiles: where each starts, and the (row of tiles, tile in it) after them."""

    starts: list[tuple[Expr, Expr]]  # row and column of the output
    after: tuple[Expr, Expr]


def kernel(step: Step, bits: int, finish: Finish, narrowing: Narrowing, is_dense: bool) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] [unpacked,] scratch, configuration, parameters)`.

    `is_dense`: there is one block of channels, it is whole, and pixels lie one after the other, in the residual too.
    """
    block, vectors = step.channels, step.vectors
    chunk_bytes = vectors * TILE_BYTES
    first_act = step.pixels * vectors
    acts = min(step.pixels, step.first_weight - first_act)  # tiles of A at a time

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        acc, config, p = rest[-3:]
        images = Images(scale, y, rest[0] if finish is Finish.UINT8_ADD else None)
        epilogue = PackedEpilogue.begin(AVX512, finish, narrowing, vectors, p)
        work = local("int32", len(Work))
        # Indexed by tile or pixel at run time: with constants the code of the finish stood once for each tile, and a
        # pixel cost multiplications. With these, and without divisions, a 32x32x16 layer takes 3.1 us instead of 3.7.
        outs, extras = local("int32", step.pixels), local("int32", step.pixels)
        out_at, extra_at = local("int32", TILE_PIXELS), local("int32", TILE_PIXELS)

        def measure_tile() -> None:
            """How far each pixel of a tile lies from the first."""
            with T.serial(0, p[Parameter.HEIGHT]) as i:
                line = T.shift_right(i * p[Parameter.WRAP], 8)
                store(out_at, i * p[Parameter.OUT_COLUMN] + line * p[Parameter.OUT_GAP], i)
                if images.residual is not None:
                    store(extra_at, i * p[RESIDUAL_COLUMN] + line * p[Parameter.RESIDUAL_GAP], i)

        def find_places() -> Places:
            """The tiles of this step; surplus tiles repeat others."""
            line, place = work[Work.LINE], work[Work.PLACE]
            starts = []
            for _ in range(step.pixels):
                row = T.bind(T.min(line * p[Parameter.FOLD], p[Parameter.LAST_ROW]))
                starts.append((row, T.bind(T.min(place * p[Parameter.HEIGHT], p[Parameter.LAST_COLUMN]))))
                is_last = place + 1 == p[Parameter.ROW_TILES]
                line = T.bind(line + T.cast(is_last, "int32"))
                place = T.bind(T.if_then_else(is_last, 0, place + 1))
            return Places(starts, (line, place))

        def start(n: Expr) -> None:
            for m in range(step.pixels):  # a stride of zero repeats the bias in every row of the tile
                for v in range(vectors):
                    source = _pointer(bias, n * block + v * LANES)
                    _tile("tileloadd64", T.uint8(m * vectors + v), source, T.int64(0))

        def unpacking(n: Expr, is_live: Expr) -> Unpacking | None:
            if bits == 8:
                return None
            first = n * (p[Parameter.SUMS] * (chunk_bytes * bits // 8))
            group = T.if_then_else(p[Parameter.PIXELS_INSIDE] == 1, work[Work.INNER], work[Work.OUTER])
            due = T.bind(tirx.all(is_live, group == 0))
            kept, ring = n * p[Parameter.KEPT], p[Parameter.RING]
            return Unpacking(bits, chunk_bytes, w, rest[-4], p[Parameter.SUMS], first, kept, ring, due)

        def load(weights: Expr, unpacks: Unpacking | None, bases: list[Expr], chunk: Expr) -> None:
            buffer, at = (w, weights + chunk * chunk_bytes)
            if unpacks:
                buffer, at = unpacks.unpacked, unpacks.place(chunk)
            for v in range(vectors):
                source = _pointer(buffer, at + v * TILE_BYTES)
                _tile("tileloadd64", T.uint8(step.first_weight + v), source, T.int64(64))
            for m in range(acts):
                load_act(m, bases, chunk)

        def load_act(m: int, bases: list[Expr], chunk: Expr) -> None:
            """More tiles of A than registers: the surplus is loaded when the first have been multiplied."""
            stride = T.cast(p[Parameter.IN_COLUMN], "int64")
            source = _pointer(a, bases[m] + p[Parameter.OFFSETS + chunk])
            _tile("tileloadd64", T.uint8(first_act + m % acts), source, stride)

        def prefetch(chunk: Expr) -> None:
            """Fetch weights that are read later into the second-level cache, evenly over the whole kernel."""
            first = p[Parameter.AHEAD] + chunk * (p[Parameter.LINES] * LINE_BYTES)
            with T.serial(0, p[Parameter.LINES]) as i:
                address = _pointer(w, first + i * LINE_BYTES)
                T.evaluate(
                    T.call_llvm_intrin("void", "llvm.prefetch", address, T.int32(0), T.int32(2), T.int32(1))
                )

        def multiply(bases: list[Expr], chunk: Expr) -> None:
            for m in range(step.pixels):
                if m >= acts:
                    load_act(m, bases, chunk)
                for v in range(vectors):
                    total, act = T.uint8(m * vectors + v), T.uint8(first_act + m % acts)
                    _tile("tdpbusd", total, act, T.uint8(step.first_weight + v))

        def keep() -> None:
            for m in range(step.pixels):
                for v in range(vectors):
                    target = _pointer(acc, m * TILE_PIXELS * block + v * LANES)
                    _tile("tilestored64", T.uint8(m * vectors + v), target, T.int64(4 * block))

        def end(chunk: Expr, ending: Block) -> None:
            """Finish some pixels of the step before, in the time that a chunk of this one takes."""
            before = T.bind((chunk - p[Parameter.SKIP]) * p[Parameter.GROUPS])
            count = T.min(p[Parameter.GROUPS], work[Work.PENDING] - before)
            with T.serial(0, T.if_then_else(before < 0, 0, count)) as group:
                # The last group of a tile overlaps the one before.
                first = T.bind(
                    T.min((before + group) * epilogue.together, p[Parameter.HEIGHT] - epilogue.together)
                )
                members = [first + k for k in range(epilogue.together)]
                with T.serial(0, step.pixels) as m:
                    pixels = Pixels(
                        p[Parameter.HEIGHT],
                        acc,
                        lambda i: (m * TILE_PIXELS + i) * block,
                        lambda i: outs[m] + out_at[i],
                        lambda i: extras[m] + extra_at[i],
                    )
                    epilogue.write_members(pixels, members, images, ending, is_dense)

        def advance(n: Expr, places: Places) -> None:
            """The step just computed becomes the one to finish."""
            store(work, epilogue.groups(p[Parameter.HEIGHT]), Work.PENDING)
            store(work, n, Work.BLOCK)
            for m, (row, column) in enumerate(places.starts):
                store(outs, row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN], m)
                if images.residual is not None:
                    store(extras, row * p[RESIDUAL_ROW] + column * p[RESIDUAL_COLUMN], m)
            inside = p[Parameter.PIXELS_INSIDE]
            is_last = T.bind(T.cast(work[Work.INNER] + 1 == p[Parameter.INNER], "int32"))
            # Inside, the pixels begin anew with each block; outside they go on when all blocks are done.
            for position, after in zip((Work.LINE, Work.PLACE), places.after, strict=True):
                kept = T.if_then_else(inside == 1, 0, work[position])
                store(work, T.if_then_else(inside != is_last, after, kept), position)
            store(work, work[Work.OUTER] + is_last, Work.OUTER)
            store(work, T.if_then_else(is_last == 1, 0, work[Work.INNER] + 1), Work.INNER)

        _tile("ldtilecfg", _pointer(config, 0))
        measure_tile()
        for position in range(len(Work)):
            store(work, T.int32(0), position)
        with T.serial(0, p[Parameter.STEPS] + 1) as index:  # one more, to finish the last
            is_live = index < p[Parameter.STEPS]
            position = T.if_then_else(p[Parameter.PIXELS_INSIDE] == 1, work[Work.OUTER], work[Work.INNER])
            n = T.bind(position)
            places = find_places()
            bases = [T.bind(r * p[Parameter.IN_ROW] + c * p[Parameter.IN_COLUMN]) for r, c in places.starts]
            weights = T.bind(n * (p[Parameter.SUMS] * chunk_bytes))
            unpacks = unpacking(n, is_live)
            if unpacks:
                unpacks.begin()
            ending = epilogue.block(work[Work.BLOCK])
            # The first tiles are loaded before the accumulators of the step before are stored: a load waits for every
            # earlier store whose address agrees in the lower 12 bits, and scratch has them all.
            with T.If(is_live), T.Then():
                load(weights, unpacks, bases, T.int32(0))
            with T.If(index > 0), T.Then():
                keep()
            with T.If(is_live), T.Then():
                start(n)
            with T.serial(0, p[Parameter.SUMS]) as chunk:
                if unpacks:
                    unpacks.advance(chunk)
                with T.If(is_live), T.Then():
                    with T.If(chunk > 0), T.Then():
                        load(weights, unpacks, bases, chunk)
                    multiply(bases, chunk)
                    prefetch(index * p[Parameter.SUMS] + chunk)
                end(chunk, ending)
            advance(n, places)
        _tile("tilerelease")

    pointers = {
        "a": "uint8",
        "w": "int8" if bits == 8 else "uint8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        **finish.pointers,
        **({} if bits == 8 else {"unpacked": "int8"}),
        "acc": "int32",
        "config": "uint8",
        "parameters": "int32",
    }
    return prim_func(symbol(step, bits, finish, narrowing, is_dense), pointers, body)
