"""Rows of the kernel table for x86 besides the dot products of `dot.py`: AMX and depthwise."""

from math import gcd

import numpy as np

from haqnas.kernels import amx, finish, x86_depthwise
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Extra, Geometry, Kernel, Scratch, finish_values, grid, parameters
from haqnas.kernels.x86_finish import Machine
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS


def amx_row(vectors: int) -> Kernel:
    """AMX: tiles of 16 pixels by `vectors` times 16 output channels."""
    block = amx.block_channels(vectors)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p = amx.Parameter
        height = amx.tile_height(g.columns)
        row_tiles = -(-g.columns // height)
        values = finish_values(g) | {
            p.TILES: row_tiles * g.rows,
            p.ROW_TILES: row_tiles,
            p.HEIGHT: height,
            p.COLUMNS: g.columns,
            p.BLOCKS: -(-g.channels // block),
            p.TAPS: len(g.offsets),
            p.CHUNKS: -(-g.length // amx.CHUNK),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
        }
        scratch = Scratch(amx.scratch_bytes(vectors))
        return scratch, amx.configuration(height), parameters(values, g.offsets, p.OFFSETS)

    return Kernel(
        name=f"dot/amx-int8/{block}",
        isa="amx-int8",
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=amx.CHUNK - 1,
        act_offset=0,
        # Short rows leave tiles empty, short taps leave chunks empty: VNNI wastes less there.
        accepts=lambda g: (
            g.columns >= 5 and g.length >= 32 and (g.weight_bits > 1 or g.length % amx.CHUNK == 0)
        ),
        pack=lambda _, weight: amx.pack(weight, vectors),
        finishes=tuple(Finish),
        function=lambda _, finish: amx.kernel(vectors, finish),
        symbol=lambda _, finish: amx.symbol(vectors, finish),
        extras=extras,
    )


LARGEST_FILTER = 49  # taps; the code is unrolled over them
TILE_PIXELS = 4


def depthwise_row(machine: Machine) -> Kernel:
    """Depthwise convolution in blocks of as many channels as a vector has bytes."""
    block = machine.size
    isa = "avx512-vnni" if machine.has_avx512 else "avx2"

    def repeats(g: Geometry) -> int:
        """Neighbouring pixels that are read as one."""
        dense = g.in_column == g.out_column == g.channels < block
        return block // g.channels if dense and block % g.channels == 0 else 1

    def shape(g: Geometry) -> x86_depthwise.Filter:
        rows, columns, _, across = grid(g.offsets) or (0, 0, 0, 1)
        unit = gcd(g.in_column, across)
        pixels = min(TILE_PIXELS, g.columns // repeats(g))
        step, spread = repeats(g) * g.in_column // unit, across // unit
        return x86_depthwise.Filter(machine, rows, columns, step, spread, pixels)

    def accepts(g: Geometry) -> bool:
        taps = grid(g.offsets)
        return (
            taps is not None
            and len(g.offsets) <= LARGEST_FILTER
            and g.channels * repeats(g) >= block
            and g.columns >= repeats(g)
        )

    def repeated(g: Geometry, values: np.ndarray) -> np.ndarray:
        return np.concatenate([values] * repeats(g))

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, form, repeat = x86_depthwise.Parameter, shape(g), repeats(g)
        _, _, down, across = grid(g.offsets) or (0, 0, 0, 1)
        advance = form.pixels * repeat
        values = finish_values(g) | {
            finish.CHANNELS: g.channels * repeat,
            p.ROWS: g.rows,
            p.TILES: -(-g.columns // advance),
            p.ADVANCE: advance,
            p.LAST: g.columns - advance,
            p.BLOCKS: -(-g.channels * repeat // block),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.OUT_STEP: g.out_column * repeat,
            p.UNIT: gcd(g.in_column, across),
            p.DOWN: down,
        }
        return (parameters(values, (), p.COUNT),)

    def pack(g: Geometry, weight: np.ndarray) -> np.ndarray:
        form = shape(g)
        cube = repeated(g, weight.reshape(len(weight), form.rows, form.columns))
        return x86_depthwise.pack(cube, block, form.group)

    def arrange(g: Geometry, values: np.ndarray) -> np.ndarray:
        order = x86_depthwise.channel_order(g.channels * repeats(g), block)
        arranged: np.ndarray = repeated(g, values)[order].reshape(-1)
        return arranged

    return Kernel(
        name=f"depthwise/{isa}/{block}",
        isa=isa,
        kind="depthwise",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=0,
        act_offset=0,
        accepts=accepts,
        pack=pack,
        finishes=(Finish.UINT8, Finish.FLOAT32),
        function=lambda g, finish: x86_depthwise.kernel(shape(g), finish),
        symbol=lambda g, finish: x86_depthwise.symbol(shape(g), finish),
        extras=extras,
        cost=lambda g: shape(g).cost * -(-g.channels * repeats(g) // block) / repeats(g),
        arrange=arrange,
    )
