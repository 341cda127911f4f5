"""The kernel table: one row per kernel of a layer with weights. Selection, tests and benchmarks all read it.

A row says what it can compute; the first row, in the order of the target's instruction sets and of the table, that
accepts a layer serves it. Weight bits below 8 are stored packed; a kernel that does not read them so itself runs after
`subbyte` has unpacked them.
"""

from collections.abc import Sequence

from haqnas.kernels import (
    amx,
    depthwise,
    dot,
    dot_rows,
    gemv,
    narrow_rows,
    neon_rows,
    x86_depthwise_rows,
    x86_rows,
)
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Extra, Geometry, Kernel, finish_values, parameters, stand_in
from haqnas.kernels.x86_finish import Machine
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS


def _small_group_extras(g: Geometry) -> tuple[Extra, ...]:
    p = depthwise.Parameter
    values = finish_values(g) | {
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
    return (parameters(values, g.offsets, p.OFFSETS),)


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
    pack=lambda _, weight: depthwise.pack_depthwise(weight),
    finishes=(Finish.UINT8, Finish.FLOAT32),
    function=lambda _, finish: depthwise.depthwise_kernel(finish),
    symbol=lambda _, finish: depthwise.depthwise_symbol(finish),
    extras=_small_group_extras,
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
    pack=lambda _, weight: depthwise.pack_grouped(weight),
    finishes=(Finish.UINT8, Finish.FLOAT32),
    function=lambda _, finish: depthwise.grouped_kernel(finish),
    symbol=lambda _, finish: depthwise.grouped_symbol(finish),
    extras=_small_group_extras,
)


TABLE: tuple[Kernel, ...] = (
    x86_rows.amx_row(amx.Step(2, 2)),
    x86_rows.amx_row(amx.Step(4, 1)),
    *dot_rows.VNNI_ROWS,
    gemv.ROW,
    dot_rows.dot_row(dot.AVX2, dot.Tile(4, 2)),
    dot_rows.dot_row(dot.AVX2, dot.Tile(6, 1)),
    stand_in(dot_rows.dot_row(dot.AVX2, dot.Tile(4, 2))),
    *narrow_rows.AVX2_ROWS,
    *(x86_depthwise_rows.sweep_row(lanes) for lanes in (16, 8, 4)),
    *(x86_depthwise_rows.tile_row(Machine(lanes, True)) for lanes in (16, 8, 4)),
    *(x86_depthwise_rows.general_row(lanes) for lanes in (16, 8, 4)),
    *(x86_depthwise_rows.tile_row(Machine(lanes, False)) for lanes in (8, 4)),
    *neon_rows.ROWS,
    *narrow_rows.NEON_ROWS,
    dot_rows.dot_row(dot.RVV, dot.Tile(6, 1)),
    dot_rows.dot_row(dot.PORTABLE, dot.Tile(2, 2)),
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
        and (row.can_be_signed or not geometry.is_signed)
        and row.accepts(geometry)
    ]

    def rank(row: Kernel) -> tuple[int, float]:
        padded = -(-geometry.channels // row.block) * row.block
        return ranked.index(row.isa), padded if row.cost is None else row.cost(geometry)

    return tuple(sorted(rows, key=rank))


def signed_kinds(isas: Sequence[str]) -> frozenset[str]:
    """The kinds of layers that a machine's kernels compute on images stored as x - 128: none where the best do not."""
    best = next((isa for isa in isas if any(row.isa == isa and row.kind == "dot" for row in TABLE)), None)
    signed = [row for row in TABLE if row.isa in isas and row.can_be_signed]
    return frozenset(row.kind for row in signed) if any(row.isa == best for row in signed) else frozenset()


def select(geometry: Geometry, isas: Sequence[str]) -> Kernel:
    """The best row by rule: best instruction set, then the least cost, then the table's order."""
    return candidates(geometry, isas)[0]
