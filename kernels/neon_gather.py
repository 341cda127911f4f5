"""Gathering on Arm: where taps are a few bytes each, the bytes of all taps of a pixel are put side by side first.

A first layer has one to four channels, so a tap is a short row of bytes and most of a 16-byte step would be zeros.
The bytes that one output row needs lie in a few rows of the input; pixels of the output lie one or two bytes apart.
So a register of each input row serves several pixels, and table lookups (tbl, tbx) pick a pixel's bytes from these
registers: a patch, whose products are then those of a pointwise layer.
"""

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.neon import CHUNK, intrinsic, signed
from haqnas.kernels.tir import Buffer, Expr, load, pointer, store

TABLE_ROWS = 4  # registers that one tbl reads
NOWHERE = 192  # an index beyond every table, also after a pixel's shift has been added
LONGEST_PATCH = 160  # bytes
FEWEST_PIXELS, MOST_PIXELS = 4, 8  # that share their rows


@dataclass(frozen=True, slots=True)
class Gather:
    """Patches of `rows` taps of `length` bytes; pixels lie `step` bytes apart, `pixels` of them share their loads."""

    rows: int
    length: int
    step: int
    pixels: int

    @property
    def patch_bytes(self) -> int:
        return -(-self.rows * self.length // CHUNK) * CHUNK


def gather_of(taps: int, length: int, in_column: int, columns: int) -> Gather | None:
    """How to gather a row of `columns` pixels, or None where that does not pay or cannot be."""
    if taps < 2 or taps * length > LONGEST_PATCH or not 0 < in_column <= length < CHUNK // 2:
        return None
    pixels = min(MOST_PIXELS, (CHUNK - length) // in_column + 1)
    return Gather(taps, length, in_column, min(pixels, columns)) if pixels >= FEWEST_PIXELS else None


@dataclass(frozen=True, slots=True)
class Lookup:
    """One tbl or tbx: bytes of chunk `chunk` of a patch that come from rows first .. first + count - 1."""

    chunk: int
    first: int
    count: int


def lookups(g: Gather) -> tuple[Lookup, ...]:
    """In order; several for a chunk that needs more rows than one table holds."""
    result = []
    for chunk in range(g.patch_bytes // CHUNK):
        first = chunk * CHUNK // g.length
        end = min(g.rows, -(-(chunk + 1) * CHUNK // g.length))
        result += [Lookup(chunk, r, min(TABLE_ROWS, end - r)) for r in range(first, end, TABLE_ROWS)]
    return tuple(result)


def indices(g: Gather) -> np.ndarray:
    """(lookups, pixels, CHUNK) uint8: for each lookup and pixel, where in its table a byte lies."""
    out = np.full((len(lookups(g)), g.pixels, CHUNK), NOWHERE, np.uint8)
    for i, lookup in enumerate(lookups(g)):
        for byte in range(CHUNK):
            row, k = divmod(lookup.chunk * CHUNK + byte, g.length)
            if lookup.first <= row < lookup.first + lookup.count:
                out[i, :, byte] = CHUNK * (row - lookup.first) + k + g.step * np.arange(g.pixels)
    return out


def emit_row(
    g: Gather,
    source: Buffer,
    patches: Buffer,
    tables: Buffer,
    offsets: list[Expr],
    columns: Expr,
    is_kept: bool,
) -> None:
    """Write the patches of one output row; the last pixels overlap the ones before.

    `source` starts at the first pixel's base, `offsets` are those of the taps. Patches hold int8 x - 128, or the bytes
    as they are where `is_kept`. Padding bytes hold anything: their weights are zero.
    """

    def picked(rows: list[Expr], chunk: int, m: int) -> Expr:
        result = None
        for i, lookup in enumerate(lookups(g)):
            if lookup.chunk != chunk:
                continue
            table = rows[lookup.first : lookup.first + lookup.count]
            index = load(tables, (i * g.pixels + m) * CHUNK, CHUNK)
            if result is None:
                result = intrinsic("int8x16", f"tbl{len(table)}.v16i8", *table, index)
            else:
                result = intrinsic("int8x16", f"tbx{len(table)}.v16i8", result, *table, index)
        return result

    with T.serial(0, T.floordiv(columns + g.pixels - 1, g.pixels)) as i:
        first = T.bind(T.min(i * g.pixels, columns - g.pixels))
        start = pointer(source, first * g.step)
        rows = [load(start, offset, CHUNK) for offset in offsets]
        rows = rows if is_kept else [signed(row) for row in rows]
        target = pointer(patches, first * g.patch_bytes)
        for m in range(g.pixels):
            for chunk in range(g.patch_bytes // CHUNK):
                store(target, picked(rows, chunk, m), m * g.patch_bytes + chunk * CHUNK, CHUNK)
