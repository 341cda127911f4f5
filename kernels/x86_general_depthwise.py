"""Depthwise convolution on AVX-512 by filters of any size and step, in little code.

The products of `x86_columns`, but all loops run at run time: nothing is shared between neighbouring pixels, which takes
1.3 to 1.6 times as long, and one function serves all layers of a network. It stands in where code must be saved.
"""

from enum import IntEnum

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import CHANNELS, OWN, ZERO_POINT, Finish
from haqnas.kernels.tir import Buffer, PrimFunc, load, local, pointer, prim_func, store
from haqnas.kernels.x86_columns import GROUP
from haqnas.kernels.x86_depthwise import interleaved, store_floats
from haqnas.kernels.x86_finish import PACKED, Clamp, Machine, Narrowing, requantized


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    ROWS = OWN
    COLUMNS = OWN + 1
    BLOCKS = OWN + 2
    IN_ROW = OWN + 3
    IN_COLUMN = OWN + 4
    OUT_ROW = OWN + 5
    OUT_COLUMN = OWN + 6
    TAPS = OWN + 7  # of a row of the filter
    ACROSS = OWN + 8  # from one of them to the next
    GROUPS = OWN + 9  # of four rows of the filter
    LAST = OWN + 10  # row of the filter, read again to fill a group: those weights are 0
    DOWN = OWN + 11  # from one row of the filter to the next
    COUNT = OWN + 12


def symbol(machine: Machine, finish: Finish, narrowing: Narrowing) -> str:
    """The C name of the kernel."""
    return f"hq_depthwise_avx512_vnni_{machine.size}_any_{finish}{narrowing.suffix}"


def kernel(machine: Machine, finish: Finish, narrowing: Narrowing) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, parameters)`; weights from `x86_depthwise.pack`."""
    lanes, block = machine.lanes, machine.size
    vector_bytes = lanes * GROUP

    def add(acc: Buffer, source: Buffer, w: Buffer, p: Buffer) -> None:
        """All products of one pixel; the buffers start at it and at the weights of its block."""
        with T.serial(0, p[Parameter.TAPS]) as tap, T.serial(0, p[Parameter.GROUPS]) as group:
            line = pointer(source, tap * p[Parameter.ACROSS])
            rows = [T.min(group * GROUP + k, p[Parameter.LAST]) for k in range(GROUP)]
            spread = interleaved(machine, [load(line, row * p[Parameter.DOWN], block) for row in rows])
            weights = pointer(w, (tap * p[Parameter.GROUPS] + group) * (PACKED * vector_bytes))
            for k in range(PACKED):
                total = machine.dot(
                    load(acc, k * lanes, lanes), spread[k], load(weights, k * vector_bytes, vector_bytes)
                )
                store(acc, total, k * lanes, lanes)

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, p: Buffer) -> None:
        clamp = Clamp.read(narrowing, p, ZERO_POINT)
        acc = local("int32", PACKED * lanes)
        block_bytes = p[Parameter.TAPS] * p[Parameter.GROUPS] * (PACKED * vector_bytes)
        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.BLOCKS]) as n:
            channel = T.min(n * block, p[CHANNELS] - block)
            line = pointer(a, row * p[Parameter.IN_ROW] + channel)
            target = pointer(y, row * p[Parameter.OUT_ROW] + channel)
            weights, biases, factors = (
                pointer(w, n * block_bytes),
                pointer(bias, n * block),
                pointer(scale, n * block),
            )
            with T.serial(0, p[Parameter.COLUMNS]) as column:
                for k in range(PACKED):
                    store(acc, load(biases, k * lanes, lanes), k * lanes, lanes)
                add(acc, pointer(line, column * p[Parameter.IN_COLUMN]), weights, p)
                totals, scales = (
                    [load(buffer, k * lanes, lanes) for k in range(PACKED)] for buffer in (acc, factors)
                )
                out = column * p[Parameter.OUT_COLUMN]
                if finish is Finish.FLOAT32:
                    store_floats(machine, totals, scales, target, out)
                else:
                    store(target, requantized(machine, totals, scales, clamp), out, block)

    pointers = {
        "a": "uint8",
        "w": "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        "parameters": "int32",
    }
    return prim_func(symbol(machine, finish, narrowing), pointers, body)
