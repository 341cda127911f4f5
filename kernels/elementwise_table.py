"""The table of elementwise kernels: one row per operator and instruction set. Selection and tests read it.

The first row, in the order of the target's instruction sets and of the table, that accepts a piece of work serves it;
the portable rows accept everything.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from haqnas.kernels import elementwise, neon_elementwise, x86_elementwise
from haqnas.kernels.neon import CHUNK
from haqnas.kernels.pieces import RANK, Nest, Row, Work
from haqnas.kernels.tir import PrimFunc
from haqnas.kernels.x86_finish import AVX2, AVX512, Machine, Narrowing

GREATEST_PRODUCT = 255 * 255


def _as_it_is(work: Work) -> Work:
    return work


def _columns(nest: Nest) -> Nest | None:
    """The loops with the last tensor the same along the second one, None where that is impossible."""
    if nest.rank != RANK:
        return None
    outer, middle, inner = nest.extents
    if middle == 1 or nest.strides[-1][1] == 0:
        return nest
    return Nest((middle, 1, inner), tuple((s[1], 0, s[2]) for s in nest.strides)) if outer == 1 else None


def _with_columns(work: Work) -> Work:
    return replace(work, nest=_columns(work.nest) or work.nest)


def _pieces_of(width: int) -> Callable[[Work], bool]:
    return lambda work: work.nest.rank == RANK and work.nest.piece >= width


def _columns_of(width: int) -> Callable[[Work], bool]:
    return lambda work: work.nest.piece >= width and _columns(work.nest) is not None


def _row(isa: str, kind: str, width: int, function: Callable[[], PrimFunc], symbol: str) -> Row:
    """A kernel without variants for pieces of at least `width` elements."""
    return Row(
        f"{kind}/{isa}/{width}",
        isa,
        kind,
        _pieces_of(width),
        _as_it_is,
        lambda _: symbol,
        lambda _: function(),
    )


def _shuffled_table_row(isa: str, machine: Machine) -> Row:
    row = _row(
        isa,
        "table",
        machine.size,
        lambda: x86_elementwise.shuffled_table_kernel(machine),
        x86_elementwise.table_symbol(machine),
    )
    return replace(
        row,
        arrange=lambda work: replace(
            work, constants=tuple(x86_elementwise.shuffled_table(t) for t in work.constants)
        ),
    )


def _x86_mul_row(isa: str, machine: Machine) -> Row:
    def narrowing(work: Work) -> Narrowing:
        zero_point, low, high = work.scalars[2:]
        is_bounded = abs(float(work.constants[0][0])) * GREATEST_PRODUCT < 2**30
        return Narrowing.of(zero_point, low, high, is_bounded)

    return Row(
        f"mul/{isa}",
        isa,
        "mul",
        _columns_of(machine.size),
        _with_columns,
        lambda work: x86_elementwise.mul_symbol(machine, narrowing(work)),
        lambda work: x86_elementwise.mul_kernel(machine, narrowing(work)),
    )


def _x86_add_row(isa: str, machine: Machine) -> Row:
    return _row(
        isa,
        "add",
        machine.size,
        lambda: x86_elementwise.add_kernel(machine),
        x86_elementwise.add_symbol(machine),
    )


def _portable_row(kind: str, function: Callable[[int], PrimFunc]) -> Row:
    return Row(
        f"{kind}/portable",
        "portable",
        kind,
        lambda _: True,
        _as_it_is,
        lambda work: f"hq_{kind}_{work.nest.rank}",
        lambda work: function(work.nest.rank),
    )


def _copy_row(isa: str, width: int) -> Row:
    """Bytes from place to place."""
    symbol = elementwise.copy_pieces_symbol(width)
    row = _row(isa, "copy", width, lambda: elementwise.copy_pieces_kernel(width), symbol)
    return replace(row, accepts=lambda w: w.dtype in ("uint8", "int8") and _pieces_of(width)(w))


def _fill_row(isa: str, width: int) -> Row:
    """A value in every byte."""
    symbol = elementwise.fill_pieces_symbol(width)
    return _row(isa, "fill", width, lambda: elementwise.fill_pieces_kernel(width), symbol)


COPY = Row(
    "copy/portable",
    "portable",
    "copy",
    lambda _: True,
    _as_it_is,
    lambda work: f"hq_copy_{work.dtype}_{work.nest.rank}",
    lambda work: elementwise.copy_kernel(work.dtype, work.nest.rank),
)

NEON_MUL = Row(
    "mul/neon",
    "neon",
    "mul",
    _columns_of(CHUNK),
    _with_columns,
    lambda _: "hq_mul_neon",
    lambda _: neon_elementwise.mul_kernel(),
)

TABLE: tuple[Row, ...] = (
    _row("avx512-vbmi", "table", 64, x86_elementwise.permuted_table_kernel, "hq_table_vbmi"),
    _shuffled_table_row("avx512-vnni", AVX512),
    _shuffled_table_row("avx2", AVX2),
    _row("neon", "table", CHUNK, neon_elementwise.table_kernel, "hq_table_neon"),
    _x86_mul_row("avx512-vnni", AVX512),
    _x86_mul_row("avx2", AVX2),
    NEON_MUL,
    _x86_add_row("avx512-vnni", AVX512),
    _x86_add_row("avx2", AVX2),
    _row("neon", "add", CHUNK, neon_elementwise.add_kernel, "hq_add_neon"),
    _copy_row("avx512-vnni", 64),
    _copy_row("avx2", 32),
    _copy_row("avx2", CHUNK),
    _copy_row("neon", CHUNK),
    _fill_row("avx512-vnni", 64),
    _fill_row("avx2", 32),
    _fill_row("neon", CHUNK),
    COPY,
    _portable_row("fill", elementwise.fill_kernel),
    _portable_row("table", elementwise.table_kernel),
    _portable_row("add", elementwise.add_kernel),
    _portable_row("mul", elementwise.mul_kernel),
    _portable_row("quantize", elementwise.quantize_kernel),
    _portable_row("dequantize", elementwise.dequantize_kernel),
)


def select(work: Work, isas: Sequence[str]) -> Row:
    """The best row on a machine with `isas` (best first; "portable" is always one of them)."""
    ranked = [*isas, "portable"]
    rows = [row for row in TABLE if row.isa in ranked and row.kind == work.kind and row.accepts(work)]
    return min(rows, key=lambda row: ranked.index(row.isa))
