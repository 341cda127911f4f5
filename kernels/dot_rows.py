"""Rows of the kernel table for the dot-product family of `dot.py`."""

from haqnas.kernels.dot import (
    AVX512_VNNI,
    Cover,
    Instructions,
    Parameter,
    Tile,
    block_channels,
    kernel,
    pack,
    symbol,
)
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Extra, Geometry, Kernel, finish_values, parameters, stand_in
from haqnas.kernels.x86_finish import Narrowing
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS

# Weights that stay in a first-level cache while pixels pass: each pixel is then read and written once, whole.
# ResNet-50 took 2 % less time, MobileNetV2 5 %, than with blocks of channels always outside (Zen 5).
NEAR_WEIGHT_BYTES = 24 << 10

# Cycles of AVX-512 VNNI on CPUs with two multipliers and two loads of 64 bytes.
LATENCY = 5  # of a multiplication: a single pixel waits for it
TILE_OVERHEAD = 30  # besides products


def dot_row(instructions: Instructions, tile: Tile) -> Kernel:
    """The kernel of a tile."""
    block, group = block_channels(instructions, tile), instructions.group

    def narrowing(g: Geometry) -> Narrowing | None:
        return Narrowing.of_layer(g) if instructions.machine else None

    def accepts(g: Geometry) -> bool:
        # A packed 1-bit weight cannot be the zero that pads a group.
        pads = g.weight_bits == 1 and g.length % group != 0
        return not pads and (tile.takes_short_rows or g.columns >= tile.length)

    def blocks(g: Geometry) -> int:
        return -(-g.channels // block)

    def groups(g: Geometry) -> int:
        return -(-g.length // group)

    def cost(g: Geometry) -> float:
        """Cycles of AVX-512 VNNI."""
        sums, pixels = len(g.offsets) * groups(g), tile.pixels
        pace = max(pixels * tile.vectors, pixels + tile.vectors) / 2
        if g.columns < tile.length:
            return blocks(g) * g.rows * g.columns * (sums * LATENCY + TILE_OVERHEAD)
        return blocks(g) * Cover.of(tile, g.rows, g.columns).count * (sums * pace + TILE_OVERHEAD)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, cover = Parameter, Cover.of(tile, g.rows, g.columns)
        is_near = blocks(g) * block * len(g.offsets) * g.length <= NEAR_WEIGHT_BYTES

        def apart(row: int, column: int) -> int:
            """From the first part of a tile to the second."""
            return row if cover.strip_rows == 2 else (cover.covered - tile.length) * column

        values = finish_values(g) | {
            p.ROWS: g.rows,
            p.COLUMNS: g.columns,
            p.BLOCKS: 1 if is_near else blocks(g),
            p.BLOCKS_INSIDE: blocks(g) if is_near else 1,
            p.TAPS: len(g.offsets),
            p.GROUPS: groups(g),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.STRIPS: cover.strips,
            p.STRIP_ROWS: cover.strip_rows,
            p.LAST_ROW: g.rows - cover.strip_rows,
            p.TILES: cover.tiles,
            p.TILE_COLUMNS: cover.tile_columns,
            p.LAST_COLUMN: g.columns - cover.covered,
            p.PART_IN: apart(g.in_row, g.in_column),
            p.PART_OUT: apart(g.out_row, g.out_column) - tile.length * g.out_column,
            # All tiles of a block together fetch the next one; past the last lie the next layer's weights.
            p.AHEAD: 0 if is_near else -(-block * group // cover.count),
        }
        if g.residual:
            other = g.residual
            values[p.PART_RESIDUAL] = apart(other.row, other.column) - tile.length * other.column
        return (parameters(values, g.offsets, p.OFFSETS),)

    return Kernel(
        name=f"dot/{instructions.isa}/{tile.pixels}x{block}",
        isa=instructions.isa,
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=group - 1,
        act_offset=128 if instructions.signed_act else 0,
        accepts=accepts,
        pack=lambda _, weight: pack(weight, instructions, tile),
        finishes=tuple(Finish),
        function=lambda g, finish: kernel(instructions, tile, finish, narrowing(g)),
        symbol=lambda g, finish: symbol(instructions, tile, finish, narrowing(g)),
        extras=extras,
        cost=cost if instructions is AVX512_VNNI else None,
    )


# Widths of images are mostly 7, 6, 5 or 4 times a power of two: tiles of two parts of so many pixels waste nothing on
# them and use up to 28 of the 32 registers for sums. An odd number of rows of 7 takes one part.
VNNI_ROWS = (
    dot_row(AVX512_VNNI, Tile(7, 2, 2, takes_short_rows=False)),
    dot_row(AVX512_VNNI, Tile(6, 2, 2, takes_short_rows=False)),
    dot_row(AVX512_VNNI, Tile(5, 2, 2, takes_short_rows=False)),
    dot_row(AVX512_VNNI, Tile(7, 2, takes_short_rows=False)),
    dot_row(AVX512_VNNI, Tile(4, 2, 2)),
    dot_row(AVX512_VNNI, Tile(8, 1, 2, takes_short_rows=False)),
    # For layers whose own kernels a program has no room for. Without it a MobileNetV3-small of five pairs of bits had
    # up to 20 layers on the portable kernel and took 592 us, where at 8 bits it takes 325 (Zen 5).
    stand_in(dot_row(AVX512_VNNI, Tile(4, 2, 2))),
)
