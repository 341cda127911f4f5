"""Depthwise convolution on AVX-512: columns of the input pass by once, from left to right.

For one column, a vector of channels is loaded from each row that the filter covers; two rounds of interleaving bytes
bring four rows of a channel side by side, and one instruction multiplies and adds them. Each column is interleaved
once and added to all outputs that read it: their sums wait in registers, one set for each output that is not complete.
The code holds one output, not a tile of them, so it is small, and rows of any width waste nothing.

Channels are permuted inside a block as in `x86_depthwise`. Where channels are few, neighbouring pixels are read as one
of more channels.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import CHANNELS, OWN, ZERO_POINT, Finish
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, pointer, prim_func, store
from haqnas.kernels.x86_depthwise import interleaved, pack, store_floats
from haqnas.kernels.x86_finish import PACKED, Clamp, Machine, Narrowing, requantized

GROUP = 4  # rows that one instruction multiplies


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    ROWS = OWN
    BANDS = OWN + 1  # of rows, each of which all blocks of channels pass before the next
    BAND = OWN + 2  # rows
    PASSES = OWN + 3  # over a row: two where the pixels that are read as one do not divide it
    LAST = OWN + 4  # first pixel of the second pass
    WIDTH = OWN + 5  # outputs of a pass
    BLOCKS = OWN + 6
    IN_ROW = OWN + 7
    IN_COLUMN = OWN + 8
    OUT_ROW = OWN + 9
    OUT_COLUMN = OWN + 10
    OUT_STEP = OWN + 11  # from one output of a pass to the next
    UNIT = OWN + 12  # from one column of the input to the next
    DOWN = OWN + 13  # from one row of the filter to the next
    NOTHING = (
        OWN + 14
    )  # 0, of which LLVM does not know: else it would keep weights on the stack, which is slow
    COUNT = OWN + 15


@dataclass(frozen=True, slots=True)
class Sweep:
    """A filter and how it moves."""

    machine: Machine
    rows: int
    columns: int
    step: int  # columns of the input from one output to the next
    spread: int  # columns between neighbouring taps

    @property
    def groups(self) -> int:
        return -(-self.rows // GROUP)

    @property
    def depth(self) -> int:
        """Outputs that are not complete at any time."""
        return (self.columns - 1) * self.spread // self.step + 1

    @property
    def block(self) -> int:
        """Channels."""
        return self.machine.size

    @property
    def symbol(self) -> str:
        shape = f"{self.rows}x{self.columns}s{self.step}d{self.spread}"
        return f"hq_depthwise_avx512_vnni_{self.block}_{shape}"

    @property
    def registers(self) -> int:
        """Vectors that hold sums."""
        return PACKED * self.depth

    @property
    def cost(self) -> float:
        """Cycles for one block of channels of an output, roughly: instructions over the ports that execute them."""
        rest = self.rows - (self.groups - 1) * GROUP
        interleaving = 8 * (self.groups - 1) + (6 if rest <= 2 else 8)
        whole = len(self.readers()) * interleaving + PACKED * self.groups * self.columns + 20
        return whole / (2 if self.machine.lanes == 16 else 3)

    def readers(self) -> dict[int, list[tuple[int, int]]]:
        """Column of a step -> (outputs ago, tap) of those that read it."""
        columns: dict[int, list[tuple[int, int]]] = {}
        for tap in range(self.columns):
            ago, column = divmod(tap * self.spread, self.step)
            columns.setdefault(column, []).append((ago, tap))
        return dict(sorted(columns.items()))


def packed(weight: np.ndarray, sweep: Sweep) -> np.ndarray:
    """(channels, rows, columns) int8 -> flat int8 in the order of the kernel."""
    return pack(weight, sweep.block, GROUP)


def symbol(sweep: Sweep, finish: Finish, narrowing: Narrowing) -> str:
    """The C name of the kernel."""
    return f"{sweep.symbol}_{finish}{narrowing.suffix}"


def kernel(sweep: Sweep, finish: Finish, narrowing: Narrowing) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)`."""
    machine, block, depth, groups = sweep.machine, sweep.block, sweep.depth, sweep.groups
    lanes = machine.lanes
    vector_bytes = lanes * GROUP
    block_bytes = sweep.columns * groups * PACKED * vector_bytes

    def advance(acc: Buffer, bias: Buffer) -> None:
        """Every output is one older, a new one begins."""
        for ago in reversed(range(depth)):
            for k in range(PACKED):
                before = (
                    load(acc, ((ago - 1) * PACKED + k) * lanes, lanes)
                    if ago
                    else load(bias, k * lanes, lanes)
                )
                store(acc, before, (ago * PACKED + k) * lanes, lanes)

    def add_column(acc: Buffer, source: Buffer, w: Buffer, column: int, i: Expr, p: Buffer) -> None:
        """Add one column of step `i` to the outputs that read it and exist."""
        readers = sweep.readers()[column]
        oldest = max(ago for ago, _ in readers)
        with T.If(i < p[Parameter.WIDTH] + oldest), T.Then():
            lines = [
                load(source, row * p[Parameter.DOWN] + column * p[Parameter.UNIT], block)
                for row in range(sweep.rows)
            ]
            spread = [
                [T.bind(v) for v in interleaved(machine, lines[g * GROUP : (g + 1) * GROUP])]
                for g in range(groups)
            ]
            for ago, tap in readers:
                with T.If(T.And(i >= ago, i < p[Parameter.WIDTH] + ago)), T.Then():
                    for k in range(PACKED):
                        at_lane = (ago * PACKED + k) * lanes
                        total = load(acc, at_lane, lanes)
                        for g in range(groups):
                            index = ((tap * groups + g) * PACKED + k) * vector_bytes
                            total = machine.dot(total, spread[g][k], load(w, index, vector_bytes))
                        store(acc, total, at_lane, lanes)

    def end(acc: Buffer, scale: Buffer, y: Buffer, out: Expr, clamp: Clamp) -> None:
        """Store the oldest output."""
        totals = [load(acc, ((depth - 1) * PACKED + k) * lanes, lanes) for k in range(PACKED)]
        factors = [load(scale, k * lanes, lanes) for k in range(PACKED)]
        if finish is Finish.FLOAT32:
            store_floats(machine, totals, factors, y, out)
        else:
            store(y, requantized(machine, totals, factors, clamp), out, block)

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        clamp = Clamp.read(narrowing, p, ZERO_POINT)
        acc = local("int32", depth * PACKED * lanes)
        with T.serial(0, p[Parameter.BANDS]) as band, T.serial(0, p[Parameter.BLOCKS]) as n:
            channel = T.bind(T.min(n * block, p[CHANNELS] - block))
            first = T.bind(band * p[Parameter.BAND])
            with (
                T.serial(0, T.min(p[Parameter.BAND], p[Parameter.ROWS] - first)) as r,
                T.serial(0, p[Parameter.PASSES]) as again,
            ):
                row, column = first + r, again * p[Parameter.LAST]
                source = pointer(a, row * p[Parameter.IN_ROW] + column * p[Parameter.IN_COLUMN] + channel)
                target = pointer(y, row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN] + channel)
                with T.serial(0, p[Parameter.WIDTH] + (depth - 1)) as i:
                    nothing = i * p[Parameter.NOTHING]
                    advance(acc, pointer(bias, n * block + nothing))
                    here = pointer(source, i * (sweep.step * p[Parameter.UNIT]))
                    weights = pointer(w, n * block_bytes + nothing)
                    for column_of_step in sweep.readers():
                        add_column(acc, here, weights, column_of_step, i, p)
                    with T.If(i >= depth - 1), T.Then():
                        scales = pointer(scale, n * block + nothing)
                        end(acc, scales, target, (i - (depth - 1)) * p[Parameter.OUT_STEP], clamp)

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        "parameters": "int32",
    }
    return prim_func(symbol(sweep, finish, narrowing), pointers, body)
