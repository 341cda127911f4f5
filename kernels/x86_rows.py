"""Rows of the kernel table for x86 besides the dot products of `dot.py`: AMX."""

from haqnas.kernels import amx, amx_unpack, x86_finish
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Extra, Geometry, Kernel, Scratch, finish_values, parameters
from haqnas.kernels.x86_finish import Narrowing
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS

RESIDENT_WEIGHT_BYTES = 64 << 10


# Cycles on Sapphire Rapids: to load a tile from the first- and the second-level cache, and a step besides its products.
LOAD, FAR_LOAD, STEP_OVERHEAD = 10, 32, 200
NEAR_WEIGHT_BYTES, NEAR_ACT_BYTES = 24 << 10, 42 << 10  # they share 48 KB


def amx_row(step: amx.Step) -> Kernel:
    """AMX: `step` tiles of pixels by tiles of 16 output channels at a time."""
    block = step.channels

    def tiling(g: Geometry) -> amx.Tiling:
        is_whole = g.in_column > 0 and g.in_row % g.in_column == 0
        return amx.Tiling.of(g.rows, g.columns, g.in_row // g.in_column if is_whole else 0)

    def sums(g: Geometry) -> int:
        return len(g.offsets) * -(-g.length // amx.CHUNK)

    def size(g: Geometry) -> tuple[int, int]:
        """Groups of pixel tiles, blocks of channels."""
        return -(-tiling(g).tiles(g.rows) // step.pixels), -(-g.channels // block)

    def act_bytes(g: Geometry) -> int:
        return max(g.rows * g.in_row, g.rows * g.columns * g.in_column)

    def cost(g: Geometry) -> float:
        (groups, blocks), tile = size(g), step.pixels * step.vectors * tiling(g).height
        are_weights_far = sums(g) * step.vectors * amx.TILE_BYTES > NEAR_WEIGHT_BYTES
        loads = step.vectors * (FAR_LOAD if are_weights_far else LOAD)
        loads += step.pixels * (FAR_LOAD if act_bytes(g) > NEAR_ACT_BYTES else LOAD)
        return groups * blocks * (sums(g) * max(tile, loads) + STEP_OVERHEAD)

    def is_dense(g: Geometry, finish: Finish) -> bool:
        """Only of four pixels together: of two it gains less than its code is worth."""
        columns = (g.out_column, *([g.residual.column] if g.residual else []))
        one_block = step.vectors == 1 and g.channels == block and set(columns) == {block}
        return one_block and tiling(g).fold == 1 and finish is not Finish.FLOAT32

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, tiles, (groups, blocks) = amx.Parameter, tiling(g), size(g)
        # Few weights stay in the first-level cache: then each pixel is read and written once, whole.
        chunk_bytes = step.vectors * amx.TILE_BYTES
        block_bytes, stored_bytes = sums(g) * chunk_bytes, chunk_bytes * g.weight_bits // 8
        pixels_inside = blocks * block_bytes > RESIDENT_WEIGHT_BYTES
        ring = amx_unpack.RING_CHUNKS if pixels_inside and groups == 1 else amx_unpack.EVERY_CHUNK
        to_finish = -(-tiles.height // (x86_finish.PACKED // step.vectors))
        skip = 1 if sums(g) > 1 else 0
        between = tiles.pitch if tiles.fold > 1 else 0
        values = finish_values(g) | {
            p.STEPS: groups * blocks,
            p.INNER: groups if pixels_inside else blocks,
            p.PIXELS_INSIDE: pixels_inside,
            p.ROW_TILES: tiles.in_row,
            p.HEIGHT: tiles.height,
            p.FOLD: tiles.fold,
            p.LAST_ROW: g.rows - tiles.fold,
            p.LAST_COLUMN: max(0, g.columns - tiles.height),
            p.WRAP: tiles.wrap,
            p.OUT_GAP: g.out_row - between * g.out_column,
            p.RESIDUAL_GAP: g.residual.row - between * g.residual.column if g.residual else 0,
            p.SUMS: sums(g),
            p.GROUPS: -(-to_finish // (sums(g) - skip)),
            p.SKIP: skip,
            # The next block while this one is multiplied; past the last block lie the next layer's weights.
            p.AHEAD: sums(g) * stored_bytes * (1 if pixels_inside else blocks),
            p.LINES: -(-stored_bytes // (amx.LINE_BYTES * groups)) if pixels_inside else 1,
            p.KEPT: 0 if pixels_inside else block_bytes,
            p.RING: ring - 1,
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
        }
        config = amx.configuration(step, tiles.height, g.length)
        chunks = range(0, g.length, amx.CHUNK)
        offsets = tuple(offset + chunk for offset in g.offsets for chunk in chunks)
        numbers = parameters(values, offsets, p.OFFSETS)
        if g.weight_bits == 8:
            return Scratch(step.scratch_bytes), config, numbers
        unpacked = Scratch(min(ring, sums(g)) * chunk_bytes * (1 if pixels_inside else blocks))
        return unpacked, Scratch(step.scratch_bytes), config, numbers

    return Kernel(
        name=f"dot/amx-int8/{step.pixels}x{block}",
        isa="amx-int8",
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=amx.CHUNK - 1,
        act_offset=0,
        # Short rows leave tiles empty, short taps leave chunks empty: VNNI wastes less there.
        accepts=lambda g: (
            tiling(g).height >= 5 and g.length >= 12 and (g.weight_bits > 1 or g.length % amx.CHUNK == 0)
        ),
        pack=lambda g, weight: amx.pack(weight, step, g.weight_bits),
        finishes=tuple(Finish),
        function=lambda g, finish: amx.kernel(
            step, g.weight_bits, finish, Narrowing.of_layer(g), is_dense(g, finish)
        ),
        symbol=lambda g, finish: amx.symbol(
            step, g.weight_bits, finish, Narrowing.of_layer(g), is_dense(g, finish)
        ),
        extras=extras,
        cost=cost,
        packed_lanes=amx_unpack.LANES,
        writes_beside=lambda g: tiling(g).fold > 1,  # what lies between two rows of a tile
    )
