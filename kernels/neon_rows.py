"""The Arm rows of the kernel table."""

from collections.abc import Callable

import numpy as np

from haqnas.kernels import neon_depthwise, neon_dot, neon_gather
from haqnas.kernels.finish import Finish
from haqnas.kernels.neon import CHUNK, Clamp, Sum
from haqnas.kernels.neon_dot import Tiling
from haqnas.kernels.neon_gather import Gather, gather_of
from haqnas.kernels.neon_multiply import Sdot, Smull, Usmmla
from haqnas.kernels.row import Extra, Geometry, Kernel, Scratch, finish_values, grid, parameters, stand_in
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS


def dot_row(isa: str, tiling: Tiling, accepts: Callable[[Geometry], bool], gathers: bool = False) -> Kernel:
    """Convolution and linear layers; `gathers`: those whose taps are a few bytes each."""
    unit = tiling.multiply.unit

    def gather(g: Geometry) -> Gather | None:
        return gather_of(len(g.offsets), g.length, g.in_column, g.columns) if gathers else None

    def steps(g: Geometry) -> neon_dot.Steps:
        if gathers:
            return neon_dot.steps(tiling, (0,), len(g.offsets) * g.length)
        return neon_dot.steps(tiling, g.offsets, g.length // tiling.span)

    def variant(g: Geometry, finish: Finish) -> neon_dot.Variant:
        cut = steps(g)
        sum_, clamp = None, Clamp.of_layer(g)
        if tiling.pixels == 1:  # one pixel has few outputs to finish, so one form of it serves all
            clamp = Clamp(moves=True, clamps=True)
        if g.residual:
            sum_, clamp = Sum.of_layer(g, g.residual), Clamp(False, False, is_short=g.is_short)
        tiles = neon_dot.tiles_of(tiling, g.columns)
        is_full = g.channels % tiling.block == 0
        return neon_dot.Variant(
            tiling,
            tiles.pixels,
            tiles.tail,
            finish,
            clamp,
            sum_,
            bool(cut.whole),
            cut.rest,
            is_full,
            g.reads_signed,
            gather(g),
        )

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, cut, gathered = neon_dot.Parameter, steps(g), gather(g)
        values = finish_values(g) | {
            p.ROWS: g.rows,
            p.COLUMNS: g.columns,
            p.BLOCKS: -(-g.channels // tiling.block),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.WHOLE: len(cut.whole),
            p.RESTS: len(cut.rests),
            p.TILES: neon_dot.tiles_of(tiling, g.columns).count,
        }
        offsets = (*cut.whole, *cut.rests)
        if gathered is None:
            return (parameters(values, offsets, p.OFFSETS),)
        patches = Scratch(gathered.patch_bytes * g.columns)
        return neon_gather.indices(gathered), patches, parameters(values, (*offsets, *g.offsets), p.OFFSETS)

    def fits(g: Geometry) -> bool:
        spans = tiling.span == 1 or (tiling.span * g.in_column == g.length and g.in_column % unit == 0)
        length = len(g.offsets) * g.length if gathers else g.length
        # A packed 1-bit weight cannot be the zero that pads a step.
        pads = g.weight_bits == 1 and length % unit
        return accepts(g) and spans and not pads and (not gathers or gather(g) is not None)

    def pack(weight: np.ndarray) -> np.ndarray:
        return neon_dot.pack(weight.reshape(len(weight), 1, -1) if gathers else weight, tiling)

    return Kernel(
        name=f"dot/{isa}/{tiling.name}{'/gather' if gathers else ''}",
        isa=isa,
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=tiling.block,
        overread_bytes=CHUNK - 1,
        act_offset=tiling.multiply.act_offset,
        accepts=fits,
        pack=lambda _, weight: pack(weight),
        finishes=tuple(Finish),
        function=lambda g, finish: neon_dot.kernel(variant(g, finish)),
        symbol=lambda g, finish: variant(g, finish).symbol,
        can_be_signed=tiling.pixels > 1 and tiling.multiply.act_offset > 0,
        extras=extras,
    )


STAND_IN_PIXELS = 4


def depthwise_row(is_unrolled: bool) -> Kernel:
    """Depthwise convolution: narrow filters with unrolled rows; or any filter, by one function in few forms."""

    def form(g: Geometry) -> neon_depthwise.Filter | None:
        return neon_depthwise.unrolled_filter(g.offsets, g.in_column) if is_unrolled else None

    def variant(g: Geometry, finish: Finish) -> neon_depthwise.Variant:
        rows = form(g)
        if rows is not None:
            clamp = Clamp.of_layer(g)
            return neon_depthwise.Variant(rows, neon_depthwise.tile_pixels(rows, g.columns), clamp, finish)
        pixels = STAND_IN_PIXELS if g.columns >= STAND_IN_PIXELS else 1
        return neon_depthwise.Variant(None, pixels, Clamp(True, True, g.writes_signed), finish)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p = neon_depthwise.Parameter
        height, _, down, across = grid(g.offsets) or (0, 0, 0, 0)  # what only the unrolled forms read
        values = finish_values(g) | {
            p.ROWS: g.rows,
            p.COLUMNS: g.columns,
            p.TILES: -(-g.columns // variant(g, Finish.UINT8).pixels),
            p.TAPS: len(g.offsets),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.HEIGHT: height,
            p.DOWN: down,
            p.ACROSS: across,
            p.ONE: 1,
        }
        return (parameters(values, g.offsets, p.OFFSETS),)

    def accepts(g: Geometry) -> bool:
        fits = not g.reads_signed and g.channels >= neon_depthwise.BLOCK
        return fits and (not is_unrolled or form(g) is not None)

    return Kernel(
        name=f"depthwise/neon/{'unrolled' if is_unrolled else 'taps'}",
        isa="neon",
        kind="depthwise",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=1,
        overread_bytes=0,
        act_offset=0,
        accepts=accepts,
        pack=lambda _, weight: neon_depthwise.pack(weight),
        finishes=(Finish.UINT8, Finish.FLOAT32),
        function=lambda g, finish: neon_depthwise.kernel(variant(g, finish)),
        symbol=lambda g, finish: variant(g, finish).symbol,
        can_be_signed=True,
        is_general=not is_unrolled,
        extras=extras,
    )


def is_batch_of_one(g: Geometry) -> bool:
    """One output pixel."""
    return g.rows * g.columns == 1


def is_image(g: Geometry) -> bool:
    """Several output pixels."""
    return g.rows * g.columns > 1


USMMLA, SDOT, SMULL = Usmmla(), Sdot(), Smull()

ROWS: tuple[Kernel, ...] = (
    dot_row("neon-i8mm", Tiling(USMMLA, 6, 16), is_image, gathers=True),
    dot_row("neon-i8mm", Tiling(USMMLA, 8, 8), is_image, gathers=True),
    dot_row("neon-i8mm", Tiling(USMMLA, 6, 16), is_image),
    dot_row("neon-i8mm", Tiling(USMMLA, 8, 8), is_image),
    dot_row("neon-dotprod", Tiling(SDOT, 6, 16), is_image, gathers=True),
    dot_row("neon-dotprod", Tiling(SDOT, 8, 8), is_image, gathers=True),
    dot_row("neon-dotprod", Tiling(SDOT, 8, 8, span=3), is_image),
    dot_row("neon-dotprod", Tiling(SDOT, 6, 16), is_image),
    dot_row("neon-dotprod", Tiling(SDOT, 8, 8), is_image),
    dot_row("neon-dotprod", Tiling(SDOT, 1, 32), is_batch_of_one),
    dot_row("neon-dotprod", Tiling(SDOT, 1, 16), is_batch_of_one),
    dot_row("neon", Tiling(SMULL, 2, 8), is_image, gathers=True),
    dot_row("neon", Tiling(SMULL, 2, 8, span=3), is_image),
    dot_row("neon", Tiling(SMULL, 2, 8), is_image),
    dot_row("neon", Tiling(SMULL, 1, 16), is_batch_of_one),
    dot_row("neon", Tiling(SMULL, 1, 8), is_batch_of_one),
    stand_in(dot_row("neon", Tiling(SMULL, 1, 8), lambda _: True)),
    depthwise_row(is_unrolled=True),
    depthwise_row(is_unrolled=False),
)
