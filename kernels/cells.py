"""Gathering an image of few channels into cells of 16 bytes, so that a tap of the first layer is long.

A first layer has one to four channels, so a tap is some 3 to 21 bytes and most of a 64-byte step would be zeros. A
cell holds a few rows of every channel, as wide as the stride, so the cells that one row of taps reads lie next to each
other. The 7x7 stem of a ResNet-18 took 649 us on VNNI from planes, on AMX from cells it takes 215, copies included.
"""

from enum import IntEnum

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.tir import Buffer, Expr, PrimFunc, lanes_of, load, prim_func, store

CELL_BYTES = 16
TOGETHER = 16  # cells


class Parameter(IntEnum):
    """Positions in the parameter array."""

    ROWS = 0
    TILES = 1  # of `TOGETHER` cells in a row
    LAST = 2  # first cell of the last tile, which may overlap the one before
    SOURCE_ROW = 3  # bytes from the first source byte of a row of cells to that of the next
    CELL_ROW = 4  # bytes
    STREAMS = 5  # offsets of the first bytes of a row's streams


def symbol(width: int) -> str:
    """The C name of the kernel."""
    return f"hq_cells_{width}"


def kernel(width: int) -> PrimFunc:
    """`void f(Y, A, parameters)`: cell i of a row is bytes [i * width, (i + 1) * width) of each of its streams.

    There are CELL_BYTES / width streams; up to TOGETHER * width bytes after the last one's end are read.
    """
    dtype = {1: "uint8", 2: "uint16", 4: "uint32"}[width]
    in_word = 4 // width

    def body(y: Buffer, a: Buffer, p: Buffer) -> None:
        streams = [T.bind(p[Parameter.STREAMS + k]) for k in range(CELL_BYTES // width)]

        def word(base: Expr, first: int) -> Expr:
            """Four bytes of each cell."""
            parts = [
                T.reinterpret(lanes_of(dtype, TOGETHER), load(a, base + offset, TOGETHER * width))
                for offset in streams[first : first + in_word]
            ]
            order = [k * TOGETHER + i for i in range(TOGETHER) for k in range(in_word)]
            joined = parts[0] if in_word == 1 else T.Shuffle(parts, order)
            return T.reinterpret(lanes_of("uint32", TOGETHER), joined)

        with T.serial(0, p[Parameter.ROWS]) as row, T.serial(0, p[Parameter.TILES]) as tile:
            first = T.bind(T.min(tile * TOGETHER, p[Parameter.LAST]))
            base = T.bind(row * p[Parameter.SOURCE_ROW] + first * width)
            words = [word(base, k * in_word) for k in range(CELL_BYTES // 4)]
            order = [k * TOGETHER + i for i in range(TOGETHER) for k in range(len(words))]
            cells = T.reinterpret(lanes_of("uint8", TOGETHER * CELL_BYTES), T.Shuffle(words, order))
            store(y, cells, row * p[Parameter.CELL_ROW] + first * CELL_BYTES, TOGETHER * CELL_BYTES)

    return prim_func(symbol(width), {"y": "uint8", "a": "uint8", "parameters": "int32"}, body)
