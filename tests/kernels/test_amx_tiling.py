"""Tiles of pixels: every output is written, and what lies between rows is overwritten or falls outside."""

from hypothesis import given
from hypothesis import strategies as st

from haqnas.kernels.amx import TILE_PIXELS, Tiling


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 60), st.integers(0, 3))
def test_last_write_of_every_output_is_its_own(rows, columns, pitch, border):
    """Tiles in any order: one tile writes in order, so only what it writes into other tiles' pixels could harm."""
    tiling = Tiling.of(rows, columns, pitch)
    assert 1 <= tiling.height <= TILE_PIXELS
    out_row = columns + border
    final: dict[int, tuple[int, int]] = {}
    for index in range(tiling.tiles(rows)):
        line, place = divmod(index, tiling.in_row)
        row = min(line * tiling.fold, rows - tiling.fold)
        column = min(place * tiling.height, max(0, columns - tiling.height))
        own: dict[int, tuple[int, int] | None] = {}
        for i in range(tiling.height):
            below = (i * tiling.wrap) >> 8
            assert below == (i // tiling.pitch if tiling.fold > 1 else 0)
            x = column + i - below * tiling.pitch
            own[(row + below) * out_row + x] = (row + below, x) if x < columns else None
        for address, pixel in own.items():
            inside = address % out_row < columns and address < rows * out_row
            assert pixel is not None or not inside
            if pixel is not None:
                assert address == pixel[0] * out_row + pixel[1]
                final[address] = pixel
    assert len(final) == rows * columns
