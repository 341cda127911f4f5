"""Cells: the convolution over cells is the convolution over the image."""

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from haqnas.codegen.first_layer import Cells
from haqnas.kernels.cells import CELL_BYTES


def gathered(plan: Cells, image: np.ndarray) -> np.ndarray:
    """(channels, rows, columns) -> flat bytes of cells; what holds no pixel is 99, which no filter may see."""
    rows, columns = plan.size
    out = np.full((rows, plan.row_bytes), 99, np.int64)
    step = plan.stride[1]
    for r in range(rows):
        for c in range(columns):
            part = image[:, r * plan.stride[0] :, c * step : (c + 1) * step][:, : plan.depth]
            cell = part.transpose(1, 0, 2).reshape(-1)
            out[r, c * CELL_BYTES : c * CELL_BYTES + len(cell)] = cell
    return out.reshape(-1)


@given(
    st.integers(1, 4),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4])),
    st.tuples(st.integers(1, 5), st.integers(1, 20)),
)
def test_sums_over_cells_are_those_over_pixels(channels, filter_, stride, outputs):
    plan = Cells.of(channels, filter_, stride, outputs)
    assume(plan is not None)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (channels, *plan.source))
    weight = rng.integers(-128, 128, (3, channels, *filter_))
    cells, packed = gathered(plan, image), plan.weights(weight)
    got = np.zeros((3, *outputs), np.int64)
    for y in range(outputs[0]):
        for x in range(outputs[1]):
            base = y * plan.row_bytes + x * CELL_BYTES
            for t, offset in enumerate(plan.offsets):
                got[:, y, x] += packed[:, t] @ cells[base + offset : base + offset + plan.length]
    wanted = torch.conv2d(
        torch.from_numpy(image[None]).double(), torch.from_numpy(weight).double(), stride=stride
    )
    np.testing.assert_array_equal(got, wanted[0, :, : outputs[0], : outputs[1]].numpy())


def test_a_row_that_is_wider_than_a_cell_has_no_cells():
    assert Cells.of(4, (3, 3), (2, 4), (8, 8)) is None
    assert Cells.of(3, (3, 3), (3, 3), (8, 8)) is None
