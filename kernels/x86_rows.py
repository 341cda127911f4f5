"""Rows of the kernel table for x86 besides the dot products of `dot.py`: AMX and depthwise."""

from haqnas.kernels import amx
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Extra, Geometry, Kernel, Scratch, finish_values, parameters
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
