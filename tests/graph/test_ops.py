"""The operators' arithmetic against exact rational numbers."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from haqnas.graph.ops import requantize

ACCUMULATORS = st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=20)
SCALES = st.floats(2.0**-40, 1.0, width=32)


@given(ACCUMULATORS, SCALES, st.integers(0, 255), st.tuples(st.integers(0, 255), st.integers(0, 255)))
def test_requantize_is_one_float32_multiply_rounded_half_to_even(accumulators, scale, zero_point, bounds):
    low, high = sorted(bounds)
    given_ = requantize(
        torch.tensor(accumulators, dtype=torch.int32), torch.tensor(scale), zero_point, low, high
    )
    for accumulator, result in zip(accumulators, given_.tolist(), strict=True):
        # float32 of the accumulator and of the product are the two roundings that IEEE prescribes
        product = np.float32(np.float32(accumulator) * np.float32(scale))
        exact = round(Fraction(float(product)))  # Python rounds half to even
        assert result == min(max(exact + zero_point, low), high)


def test_ties_go_to_even():
    ties = torch.tensor([1, 3, 5, 7, -1, -3], dtype=torch.int32)
    halves = requantize(ties, torch.tensor(0.5), 10, 0, 255)
    assert halves.tolist() == [10, 12, 12, 14, 10, 8]
