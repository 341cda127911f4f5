"""Packing of weights below 8 bits loses nothing and takes the bytes it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haqnas.kernels import subbyte
from haqnas.quantspec import weight_range


@given(st.integers(1, 7), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_unpack_is_the_inverse_of_pack(bits, count, seed):
    low, high = weight_range(bits)
    rng = np.random.default_rng(seed)
    values = rng.choice([low, high], count) if bits == 1 else rng.integers(low, high + 1, count)
    packed = subbyte.pack(values.astype(np.int8), bits)
    groups = -(-count // subbyte.group_size(bits, subbyte.LANES))
    assert 8 * packed.nbytes == groups * subbyte.group_size(bits, subbyte.LANES) * bits
    np.testing.assert_array_equal(subbyte.unpack(packed, bits, count), values)


@pytest.mark.parametrize("bits", range(1, 8))
def test_extreme_values_survive(bits):
    low, high = weight_range(bits)
    values = np.array([low, high] * 9, np.int8)
    np.testing.assert_array_equal(subbyte.unpack(subbyte.pack(values, bits), bits, 18), values)
