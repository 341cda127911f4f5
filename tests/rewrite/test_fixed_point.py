import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import haqnas.graph.ops  # noqa: F401  registers the operators
from haqnas.errors import UnsupportedModelError
from haqnas.quantspec import act_range
from haqnas.rewrite.fixed_point import (
    add_multipliers,
    check_accumulator,
    clamp_integers,
    integer_bias,
    table_of,
)
from haqnas.rewrite.quants import ActQuant


@st.composite
def quants(draw: st.DrawFn) -> ActQuant:
    bits = draw(st.integers(2, 8))
    exponent = draw(st.floats(-6, 3))
    return ActQuant(float(np.float32(10.0**exponent)), draw(st.integers(0, act_range(bits)[1])), bits)


def integers_of(quant: ActQuant) -> torch.Tensor:
    return torch.arange(quant.quant_max + 1, dtype=torch.uint8)


def reals_of(quant: ActQuant) -> torch.Tensor:
    return (integers_of(quant).double() - quant.zero_point) * quant.scale


@given(quants(), quants(), quants(), st.sampled_from([1, -1]))
def test_add_is_within_one_step_of_real_arithmetic_and_never_overflows(
    a: ActQuant, b: ActQuant, out: ActQuant, sign: int
) -> None:
    left, right, shift = add_multipliers(a, b, out, sign)
    spans = [max(q.zero_point, q.quant_max - q.zero_point) for q in (a, b)]
    assert max(abs(left), abs(right)) < 2**15
    assert abs(left) * spans[0] + abs(right) * spans[1] + 2 ** (shift - 1) < 2**31
    low, high = clamp_integers(out, None)
    numbers = (a.zero_point, left, b.zero_point, right, shift, out.zero_point, low, high)
    given_sum = torch.ops.haqnas.qadd(integers_of(a)[:, None], integers_of(b)[None, :], *numbers)
    real = (reals_of(a)[:, None] + sign * reals_of(b)[None, :]) / out.scale + out.zero_point
    if max(a.scale, b.scale) / out.scale < 2**14 - 1:  # beyond, one step of an input exceeds the whole output
        # the multipliers' rounding, then half a step of the result's
        error = 0.5 + 0.5 * (spans[0] + spans[1]) / 2**shift + 1e-6
        assert ((given_sum - real.clamp(low, high)).abs() <= error).all()


@given(quants(), quants())
def test_requantization_is_the_nearest_integer(source: ActQuant, target: ActQuant) -> None:
    table = table_of(lambda values: values, source, target)
    assert table.dtype == torch.uint8
    assert table.shape == (256,)
    real = reals_of(source) / target.scale + target.zero_point
    wanted = real.clamp(0, target.quant_max)
    slack = 1e-6 * real.abs().clamp(max=1e6) + 1e-6  # the table's reals are float32
    assert ((table[: source.quant_max + 1] - wanted).abs() <= 0.5 + slack).all()


@given(quants())
def test_requantization_to_the_same_scale_changes_nothing(quant: ActQuant) -> None:
    table = table_of(lambda values: values, quant, quant)
    assert torch.equal(table[: quant.quant_max + 1], integers_of(quant))


@given(quants(), st.floats(-10, 10), st.floats(0, 10))
def test_clamp_integers_are_ordered_and_legal(quant: ActQuant, low: float, width: float) -> None:
    least, greatest = clamp_integers(quant, (low, low + width))
    assert 0 <= least <= greatest <= quant.quant_max


def test_relu_clamps_at_the_zero_point() -> None:
    assert clamp_integers(ActQuant(0.1, 100, 8), (0.0, float("inf"))) == (100, 255)
    assert clamp_integers(ActQuant(0.1, 100, 8), (0.0, 6.0)) == (100, 160)


def test_bias_saturates_where_it_cannot_be_an_int32() -> None:
    bias = integer_bias(torch.tensor([1.0, -1e9, 1e30]), torch.tensor([0.5, 1e-6, 1e-6]))
    assert bias.tolist() == [2, -(2**31 - 1), 2**31 - 1]


def test_accumulator_that_could_overflow_is_an_error_that_names_the_layer() -> None:
    weight = torch.full((1, 2**17), 127, dtype=torch.int8)
    bias = torch.zeros(1, dtype=torch.int32)
    check_accumulator("head", weight[:, : 2**16], 0, bias, ActQuant(1.0, 0, 8))
    with pytest.raises(UnsupportedModelError, match="head"):
        check_accumulator("head", weight, 0, bias, ActQuant(1.0, 0, 8))


def test_accumulator_counts_the_bias() -> None:
    weight, bias = torch.ones((1, 1), dtype=torch.int8), torch.tensor([2**31 - 1], dtype=torch.int32)
    with pytest.raises(UnsupportedModelError):
        check_accumulator("head", weight, 0, bias, ActQuant(1.0, 0, 8))
