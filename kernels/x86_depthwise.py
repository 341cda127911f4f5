"""Depthwise convolution on x86: the rows of a filter become the elements of a dot product.

For one column of the input, a vector of channels is loaded from each row that the filter covers; two rounds of
interleaving bytes bring the rows of a channel side by side, and one instruction multiplies and adds four of them
(VNNI) or two (AVX2). A column that is interleaved once serves every output pixel of the tile that reads it.

Interleaving permutes the channels inside a block, and packing the bytes of the result permutes them back: weights,
biases and scales are stored in the order between. The last block of channels overlaps the one before where the
channels are no multiple of a block. Where channels are few, neighbouring pixels are read as one of more channels.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import CHANNELS, OWN, ZERO_POINT, Finish
from haqnas.kernels.tir import (
    Buffer,
    Expr,
    PrimFunc,
    convert,
    lanes_of,
    load,
    local,
    pointer,
    prim_func,
    splat,
    store,
)
from haqnas.kernels.x86_finish import PACKED, Clamp, Machine, Narrowing, requantized, unpacked


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    ROWS = OWN
    TILES = OWN + 1  # in a row
    ADVANCE = OWN + 2  # pixels from one tile to the next
    LAST = OWN + 3  # first pixel of the last tile
    BLOCKS = OWN + 4
    IN_ROW = OWN + 5
    IN_COLUMN = OWN + 6
    OUT_ROW = OWN + 7
    OUT_COLUMN = OWN + 8
    OUT_STEP = OWN + 9  # from one pixel of a tile to the next
    UNIT = OWN + 10  # from one column of the input to the next
    DOWN = OWN + 11  # from one row of the filter to the next
    COUNT = OWN + 12


def rows_together(machine: Machine) -> int:
    """Rows that one instruction multiplies."""
    return 4 if machine.has_avx512 else 2


@dataclass(frozen=True, slots=True)
class Filter:
    """What the code is written for; equal filters are served by one function."""

    machine: Machine
    rows: int
    columns: int
    step: int  # columns of the input from one pixel of a tile to the next
    spread: int  # columns between neighbouring taps
    pixels: int  # of a tile

    @property
    def group(self) -> int:
        """Rows that one instruction multiplies."""
        return rows_together(self.machine)

    @property
    def groups(self) -> int:
        return -(-self.rows // self.group)

    @property
    def block(self) -> int:
        """Channels."""
        return self.machine.size

    @property
    def symbol(self) -> str:
        isa = "avx512_vnni" if self.machine.has_avx512 else "avx2"
        shape = f"{self.rows}x{self.columns}s{self.step}d{self.spread}"
        return f"hq_depthwise_{isa}_{self.pixels}x{self.block}_{shape}"

    @property
    def cost(self) -> float:
        """Cycles for one block of channels of one pixel, roughly: instructions over the ports that execute them."""
        whole, rest = divmod(self.rows, self.group)
        interleaving = 8 * whole + (6 if 0 < rest <= 2 else 8 if rest else 0)
        adds = 1 if self.machine.has_avx512 else 2
        products = adds * PACKED * self.groups * self.columns
        per_tile = len(self.readers()) * interleaving
        return (per_tile / self.pixels + products + 20) / (2 if self.machine.lanes == 16 else 3)

    def readers(self) -> dict[int, list[tuple[int, int]]]:
        """Column of the input -> (pixel, tap) pairs that read it, from left to right."""
        columns: dict[int, list[tuple[int, int]]] = {}
        for m in range(self.pixels):
            for tap in range(self.columns):
                columns.setdefault(m * self.step + tap * self.spread, []).append((m, tap))
        return dict(sorted(columns.items()))


def channel_order(channels: int, block: int) -> np.ndarray:
    """(blocks, vector, lane) -> channel: blocks of channels, each in the order that interleaving bytes makes."""
    starts = np.minimum(np.arange(-(-channels // block)) * block, channels - block)
    parts = block // 16
    inside = np.arange(block).reshape(parts, PACKED, 4).transpose(1, 0, 2).reshape(PACKED, -1)
    return starts[:, None, None] + inside


def pack(weight: np.ndarray, block: int, group: int) -> np.ndarray:
    """(channels, rows, columns) int8 -> flat int8: block, column, group of rows, vector, lane, row in the group."""
    channels, rows, columns = weight.shape
    groups = -(-rows // group)
    padded = np.zeros((channels, groups * group, columns), np.int8)
    padded[:, :rows] = weight
    ordered = padded[channel_order(channels, block)]  # block, vector, lane, row, column
    split = ordered.reshape(*ordered.shape[:3], groups, group, columns)
    return np.ascontiguousarray(split.transpose(0, 5, 3, 1, 2, 4)).reshape(-1)


def interleaved(machine: Machine, rows: list[Expr]) -> list[Expr]:
    """Vectors of one column, one per row -> four vectors with the rows of a channel side by side."""
    zero, group = splat(T.uint8(0), machine.size), rows_together(machine)
    both = [*rows, *[zero] * (group - len(rows))]
    if group == 2:  # 8 bits become 16
        pairs = [unpacked(both[0], both[1], machine.size, high) for high in (False, True)]
        words = [unpacked(pair, zero, machine.size, high) for pair in pairs for high in (False, True)]
        return [T.reinterpret(lanes_of("int16", 2 * machine.lanes), word) for word in words]
    result = []
    for high in (False, True):
        upper, lower = (unpacked(both[k], both[k + 1], machine.size, high) for k in (0, 2))
        for half in (False, True):
            result.append(_unpacked_words(upper, lower, machine.size, half))
    return result


def _unpacked_words(a: Expr, b: Expr, size: int, high: bool) -> Expr:
    """Interleave 16-bit words of two vectors of bytes."""
    indices = []
    for part in range(0, size, 16):
        for k in range(part + 8 * high, part + 8 * high + 8, 2):
            indices += [k, k + 1, size + k, size + k + 1]
    return T.Shuffle([a, b], indices)


def _multiply_add(shape: Filter, total: Expr, a: Expr, w: Buffer, index: int) -> Expr:
    machine = shape.machine
    if shape.group == 4:
        return machine.dot(total, a, load(w, index, machine.size))
    weight = convert(load(w, index, machine.size // 2), "int16", 2 * machine.lanes)
    return total + machine.product_sum(a, weight)


def store_floats(machine: Machine, totals: list[Expr], factors: list[Expr], y: Buffer, out: Expr) -> None:
    """Accumulators * factors to one pixel of float32, in the order of channels."""
    lanes = machine.lanes
    for k, (total, factor) in enumerate(zip(totals, factors, strict=True)):
        value = convert(total, "float32", lanes) * factor
        for part in range(lanes // 4):
            four = T.Shuffle([value], list(range(4 * part, 4 * part + 4)))
            store(y, four, out + 16 * part + 4 * k, 4)


def symbol(shape: Filter, finish: Finish, narrowing: Narrowing) -> str:
    """The C name of the kernel."""
    return f"{shape.symbol}_{finish}{narrowing.suffix}"


def kernel(shape: Filter, finish: Finish, narrowing: Narrowing) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)`."""
    machine, block = shape.machine, shape.block
    lanes = machine.lanes
    group_bytes = PACKED * lanes * shape.group
    block_bytes = shape.columns * shape.groups * group_bytes

    def tile(
        a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, acc: Buffer, p: Buffer, clamp: Clamp
    ) -> None:
        """One tile of pixels of one block of channels; the buffers start there."""
        lines = [pointer(a, row * p[Parameter.DOWN]) for row in range(shape.rows)]
        for m in range(shape.pixels):
            for k in range(PACKED):
                store(acc, load(bias, k * lanes, lanes), (m * PACKED + k) * lanes, lanes)
        for column, readers in shape.readers().items():
            for group in range(shape.groups):
                rows = lines[group * shape.group : (group + 1) * shape.group]
                vectors = interleaved(
                    machine, [load(line, column * p[Parameter.UNIT], block) for line in rows]
                )
                for m, tap in readers:
                    for k in range(PACKED):
                        index = (tap * shape.groups + group) * group_bytes + k * lanes * shape.group
                        at_lane = (m * PACKED + k) * lanes
                        total = _multiply_add(shape, load(acc, at_lane, lanes), vectors[k], w, index)
                        store(acc, total, at_lane, lanes)
        factors = [load(scale, k * lanes, lanes) for k in range(PACKED)]
        for m in range(shape.pixels):
            totals = [load(acc, (m * PACKED + k) * lanes, lanes) for k in range(PACKED)]
            out = m * p[Parameter.OUT_STEP]
            if finish is Finish.FLOAT32:
                store_floats(machine, totals, factors, y, out)
            else:
                store(y, requantized(machine, totals, factors, clamp), out, block)

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        clamp = Clamp.read(narrowing, p, ZERO_POINT)
        acc = local("int32", shape.pixels * PACKED * lanes)
        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.TILES]) as i:
            column = T.min(i * p[Parameter.ADVANCE], p[Parameter.LAST])
            source = pointer(a, row * p[Parameter.IN_ROW] + column * p[Parameter.IN_COLUMN])
            target = pointer(y, row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN])
            with T.serial(0, p[Parameter.BLOCKS]) as n:
                channel = T.min(n * block, p[CHANNELS] - block)
                tile(
                    pointer(source, channel),
                    pointer(w, n * block_bytes),
                    pointer(bias, n * block),
                    pointer(scale, n * block),
                    pointer(target, channel),
                    acc,
                    p,
                    clamp,
                )

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        "parameters": "int32",
    }
    return prim_func(symbol(shape, finish, narrowing), pointers, body)
