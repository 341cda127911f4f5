"""The kernel table: one row per kernel of a layer with weights. Selection, tests and benchmarks all read it.

A row says what it can compute; the first row, in the order of the target's instruction sets and of the table, that
accepts a layer serves it. Weight bits below 8 are stored packed and unpacked by `subbyte` before the kernel runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haqnas.kernels import amx, depthwise, dot, finish, neon_depthwise, neon_dot
from haqnas.kernels.finish import Finish
from haqnas.kernels.neon import Clamp
from haqnas.kernels.neon_multiply import Sdot, Smull
from haqnas.kernels.tir import PrimFunc
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS


@dataclass(frozen=True, slots=True)
class Geometry:
    """A layer as its kernel sees it; all strides in elements."""

    kind: str  # "dot" | "depthwise" | "grouped"
    rows: int
    columns: int
    channels: int  # of the output
    length: int  # consecutive input elements at a tap
    offsets: tuple[int, ...]  # of the taps
    group_out: int  # output channels of a group
    in_row: int
    in_column: int
    out_row: int
    out_column: int
    zero_point: int
    low: int
    high: int
    weight_bits: int
    act_bits: int
    residual: "Residual | None" = None


@dataclass(frozen=True, slots=True)
class Residual:
    """The image that is added to the output: its strides, and the scalars of `haqnas::qadd`."""

    row: int
    column: int
    scalars: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scratch:
    """Workspace that a kernel needs while it runs."""

    size_bytes: int


Extra = np.ndarray | Scratch  # arguments after (A, W, bias, scale, Y, [residual])


@dataclass(frozen=True, slots=True)
class Kernel:
    """One row: a kernel function with fixed code that serves layers of any shape it accepts."""

    name: str
    isa: str
    kind: str
    weight_bits: range
    act_bits: range
    block: int  # output channels are padded to a multiple of it in weights, bias and scale
    overread_bytes: int  # bytes after the last element of A that may be read
    act_offset: int  # subtracted from A by the kernel: 128 where the instruction wants signed numbers
    accepts: Callable[[Geometry], bool]
    pack: Callable[[np.ndarray], np.ndarray]  # (channels, taps, length) int8 -> flat int8
    finishes: tuple[Finish, ...]
    function: Callable[[Geometry, Finish], PrimFunc]  # equal symbols, equal functions
    symbol: Callable[[Geometry, Finish], str]
    extras: Callable[[Geometry], tuple[Extra, ...]]


def _parameters(values: Mapping[int, int], offsets: Sequence[int], first: int) -> np.ndarray:
    out = np.zeros(first + len(offsets), np.int32)
    for position, value in values.items():
        out[position] = value
    out[first:] = offsets
    return out


def _finish_values(g: Geometry) -> dict[int, int]:
    values = {
        finish.CHANNELS: g.channels,
        finish.ZERO_POINT: g.zero_point,
        finish.LOW: g.low,
        finish.HIGH: g.high,
    }
    if g.residual is not None:
        values |= {finish.RESIDUAL_ROW: g.residual.row, finish.RESIDUAL_COLUMN: g.residual.column}
        values |= dict(enumerate(g.residual.scalars, finish.ADD))
    return values


def _dot_row(instructions: dot.Instructions, tile: dot.Tile) -> Kernel:
    block = dot.block_channels(instructions, tile)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p = dot.Parameter
        values = _finish_values(g) | {
            p.ROWS: g.rows,
            p.COLUMNS: g.columns,
            p.BLOCKS: -(-g.channels // block),
            p.TAPS: len(g.offsets),
            p.GROUPS: -(-g.length // instructions.group),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
        }
        return (_parameters(values, g.offsets, p.OFFSETS),)

    return Kernel(
        name=f"dot/{instructions.isa}/{tile.pixels}x{block}",
        isa=instructions.isa,
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=instructions.group - 1,
        act_offset=128 if instructions.signed_act else 0,
        # A packed 1-bit weight cannot be the zero that pads a group.
        accepts=lambda g: g.weight_bits > 1 or g.length % instructions.group == 0,
        pack=lambda weight: dot.pack(weight, instructions, tile),
        finishes=tuple(Finish),
        function=lambda _, finish: dot.kernel(instructions, tile, finish),
        symbol=lambda _, finish: dot.symbol(instructions, tile, finish),
        extras=extras,
    )


def _amx_row(vectors: int) -> Kernel:
    block = amx.block_channels(vectors)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p = amx.Parameter
        height = amx.tile_height(g.columns)
        row_tiles = -(-g.columns // height)
        values = _finish_values(g) | {
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
        return scratch, amx.configuration(height), _parameters(values, g.offsets, p.OFFSETS)

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
        pack=lambda weight: amx.pack(weight, vectors),
        finishes=tuple(Finish),
        function=lambda _, finish: amx.kernel(vectors, finish),
        symbol=lambda _, finish: amx.symbol(vectors, finish),
        extras=extras,
    )


def _small_group_extras(g: Geometry) -> tuple[Extra, ...]:
    p = depthwise.Parameter
    values = _finish_values(g) | {
        p.ROWS: g.rows,
        p.COLUMNS: g.columns,
        p.TAPS: len(g.offsets),
        p.WEIGHT_ROW: -(-g.channels // depthwise.LANES) * depthwise.LANES,
        p.GROUP_IN: g.length,
        p.GROUP_OUT: g.group_out,
        p.IN_ROW: g.in_row,
        p.IN_COLUMN: g.in_column,
        p.OUT_ROW: g.out_row,
        p.OUT_COLUMN: g.out_column,
    }
    return (_parameters(values, g.offsets, p.OFFSETS),)


DEPTHWISE = Kernel(
    name="depthwise/portable",
    isa="portable",
    kind="depthwise",
    weight_bits=WEIGHT_BITS,
    act_bits=ACT_BITS,
    block=depthwise.LANES,
    overread_bytes=0,
    act_offset=0,
    accepts=lambda g: True,
    pack=depthwise.pack_depthwise,
    finishes=(Finish.UINT8, Finish.FLOAT32),
    function=lambda _, finish: depthwise.depthwise_kernel(finish),
    symbol=lambda _, finish: depthwise.depthwise_symbol(finish),
    extras=_small_group_extras,
)


def _neon_depthwise_extras(g: Geometry) -> tuple[Extra, ...]:
    p = neon_depthwise.Parameter
    _, _, down, across = neon_depthwise.grid(g.offsets) or (0, 0, 0, 0)  # what only the unrolled form reads
    values = _finish_values(g) | {
        p.ROWS: g.rows,
        p.TAPS: len(g.offsets),
        p.IN_ROW: g.in_row,
        p.IN_COLUMN: g.in_column,
        p.OUT_ROW: g.out_row,
        p.OUT_COLUMN: g.out_column,
        p.DOWN: down,
        p.ACROSS: across,
        p.ONE: 1,
    }
    values |= dict(enumerate(neon_dot.tile_counts(g.columns, neon_depthwise.SIZES).values(), p.TILES))
    return (_parameters(values, g.offsets, p.OFFSETS),)


def _neon_depthwise_row(is_unrolled: bool) -> Kernel:
    def form(g: Geometry) -> neon_depthwise.Filter | None:
        return neon_depthwise.unrolled_filter(g.offsets, g.in_column) if is_unrolled else None

    def variant(g: Geometry, finish: Finish) -> neon_depthwise.Variant:
        sizes = tuple(neon_dot.tile_counts(g.columns, neon_depthwise.SIZES))
        return neon_depthwise.Variant(form(g), sizes, Clamp.of(g.zero_point, g.low, g.high), finish)

    return Kernel(
        name=f"depthwise/neon/{'unrolled' if is_unrolled else 'taps'}",
        isa="neon",
        kind="depthwise",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=1,
        overread_bytes=0,
        act_offset=0,
        accepts=lambda g: g.channels >= neon_depthwise.BLOCK and (not is_unrolled or form(g) is not None),
        pack=neon_depthwise.pack,
        finishes=(Finish.UINT8, Finish.FLOAT32),
        function=lambda g, finish: neon_depthwise.kernel(variant(g, finish)),
        symbol=lambda g, finish: variant(g, finish).symbol,
        extras=_neon_depthwise_extras,
    )


GROUPED = Kernel(
    name="grouped/portable",
    isa="portable",
    kind="grouped",
    weight_bits=WEIGHT_BITS,
    act_bits=ACT_BITS,
    block=1,
    overread_bytes=0,
    act_offset=0,
    accepts=lambda g: True,
    pack=depthwise.pack_grouped,
    finishes=(Finish.UINT8, Finish.FLOAT32),
    function=lambda _, finish: depthwise.grouped_kernel(finish),
    symbol=lambda _, finish: depthwise.grouped_symbol(finish),
    extras=_small_group_extras,
)


def _neon_row(isa: str, tiling: neon_dot.Tiling, accepts: Callable[[Geometry], bool]) -> Kernel:
    def steps(g: Geometry) -> neon_dot.Steps:
        return neon_dot.steps(tiling, g.offsets, g.length // tiling.span)

    def variant(g: Geometry, finish: Finish) -> neon_dot.Variant:
        cut, clamp = steps(g), Clamp.of(g.zero_point, g.low, g.high)
        sizes = tuple(neon_dot.tile_counts(g.columns, tiling.pixels))
        return neon_dot.Variant(
            tiling, sizes, finish, clamp, bool(cut.whole), cut.rest, g.channels % tiling.block == 0
        )

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, cut = neon_dot.Parameter, steps(g)
        values = _finish_values(g) | {
            p.ROWS: g.rows,
            p.BLOCKS: -(-g.channels // tiling.block),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.WHOLE: len(cut.whole),
            p.RESTS: len(cut.rests),
        }
        values |= dict(enumerate(neon_dot.tile_counts(g.columns, tiling.pixels).values(), p.TILES))
        return (_parameters(values, (*cut.whole, *cut.rests), p.OFFSETS),)

    def fits(g: Geometry) -> bool:
        spans = tiling.span == 1 or (
            tiling.span * g.in_column == g.length and g.in_column % tiling.multiply.unit == 0
        )
        # A packed 1-bit weight cannot be the zero that pads a step.
        return accepts(g) and spans and (g.weight_bits > 1 or g.length % tiling.multiply.unit == 0)

    return Kernel(
        name=f"dot/{isa}/{tiling.name}",
        isa=isa,
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=tiling.block,
        overread_bytes=neon_dot.CHUNK - 1,
        act_offset=128,
        accepts=fits,
        pack=lambda weight: neon_dot.pack(weight, tiling),
        finishes=tuple(Finish),
        function=lambda g, finish: neon_dot.kernel(variant(g, finish)),
        symbol=lambda g, finish: variant(g, finish).symbol,
        extras=extras,
    )


def _is_batch_of_one(g: Geometry) -> bool:
    return g.rows * g.columns == 1


def _is_image(g: Geometry) -> bool:
    return g.rows * g.columns > 1


SDOT, SMULL = Sdot(), Smull()

TABLE: tuple[Kernel, ...] = (
    _amx_row(2),
    _amx_row(1),
    _dot_row(dot.AVX512_VNNI, dot.Tile(6, 2)),
    _dot_row(dot.AVX512_VNNI, dot.Tile(12, 1)),
    _dot_row(dot.AVX2, dot.Tile(4, 2)),
    _dot_row(dot.AVX2, dot.Tile(6, 1)),
    _neon_row("neon-dotprod", neon_dot.Tiling(SDOT, (8, 4, 2, 1), 8, 3), _is_image),
    _neon_row("neon-dotprod", neon_dot.Tiling(SDOT, (6, 4, 2, 1), 16), _is_image),
    _neon_row("neon-dotprod", neon_dot.Tiling(SDOT, (8, 4, 2, 1), 8), _is_image),
    _neon_row("neon-dotprod", neon_dot.Tiling(SDOT, (1,), 32), _is_batch_of_one),
    _neon_row("neon-dotprod", neon_dot.Tiling(SDOT, (1,), 16), _is_batch_of_one),
    _neon_row("neon", neon_dot.Tiling(SMULL, (2, 1), 8, 3), _is_image),
    _neon_row("neon", neon_dot.Tiling(SMULL, (2, 1), 8), _is_image),
    _neon_row("neon", neon_dot.Tiling(SMULL, (1,), 16), _is_batch_of_one),
    _neon_row("neon", neon_dot.Tiling(SMULL, (1,), 8), _is_batch_of_one),
    _neon_depthwise_row(is_unrolled=True),
    _neon_depthwise_row(is_unrolled=False),
    _dot_row(dot.PORTABLE, dot.Tile(2, 2)),
    DEPTHWISE,
    GROUPED,
)


def candidates(geometry: Geometry, isas: Sequence[str]) -> tuple[Kernel, ...]:
    """Rows that can compute a layer on a machine with `isas` (best first; "portable" is always one of them)."""
    ranked = [*isas, "portable"]
    rows = [
        row
        for row in TABLE
        if row.isa in ranked
        and row.kind == geometry.kind
        and geometry.weight_bits in row.weight_bits
        and geometry.act_bits in row.act_bits
        and (geometry.residual is None or Finish.UINT8_ADD in row.finishes)
        and row.accepts(geometry)
    ]

    def rank(row: Kernel) -> tuple[int, int]:
        padded = -(-geometry.channels // row.block) * row.block
        return ranked.index(row.isa), padded

    return tuple(sorted(rows, key=rank))


def select(geometry: Geometry, isas: Sequence[str]) -> Kernel:
    """The best row by rule: best instruction set, then fewest padded channels, then the table's order."""
    return candidates(geometry, isas)[0]
