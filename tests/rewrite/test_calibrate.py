import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.quantspec import QuantSpec, act_range
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.quantize import is_quantizer, quantize, read_act_quant
from haqnas.rewrite.ranges import choose_range, merge, observe
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import canonical_graph, run_stages, signal_to_noise_db


def quantized(module: nn.Module, *shapes: tuple[int, ...], bits: str = "w8a8") -> torch.fx.GraphModule:
    return quantize(canonical_graph(module, *shapes), Policy(QuantSpec.parse(bits)))


def rounding_error(values: torch.Tensor, scale: float, zero_point: int, bits: int) -> float:
    integers = (torch.round(values / scale) + zero_point).clamp(0, act_range(bits)[1])
    return float(((integers - zero_point) * scale - values).square().mean())


@given(st.integers(2, 8), st.integers(0, 2**31 - 1), st.floats(-3, 3), st.floats(-8, 8))
def test_chosen_range_is_no_worse_than_the_observed_extremes(
    bits: int, seed: int, offset: float, exponent: float
) -> None:
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(seed))
    values = (noise**3 + offset) * 10.0**exponent
    chosen = choose_range(observe(values), bits)
    assert 0 <= chosen.zero_point <= act_range(bits)[1]
    least, greatest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    widest = (greatest - least) / act_range(bits)[1]
    reference = rounding_error(values, widest, round(-least / widest), bits)
    # the histogram's bins are a little coarse for 8 bits
    assert rounding_error(values, chosen.scale, chosen.zero_point, bits) <= 1.05 * reference


@given(st.integers(0, 2**31 - 1), st.floats(-6, 6))
def test_merged_histograms_count_what_one_of_all_values_would(seed: int, exponent: float) -> None:
    first = torch.rand(1000, generator=torch.Generator().manual_seed(seed))
    second = first.flip(0)[:300] * 10.0**exponent
    merged, whole = merge(observe(first), observe(second)), observe(torch.cat([first, second]))
    assert (merged.least, merged.greatest, merged.exponent) == (whole.least, whole.greatest, whole.exponent)
    assert merged.counts.sum() == 1300
    # a value on the border of two bins may fall to either side
    assert (merged.counts.cumsum(0) - whole.counts.cumsum(0)).abs().max() <= 2


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0, 1e-30, 1e20])
def test_constant_values_get_a_legal_range(value: float) -> None:
    chosen = choose_range(observe(torch.full((10,), value)), 8)
    assert chosen.scale > 0
    assert math.isfinite(chosen.scale)
    assert 0 <= chosen.zero_point <= 255
    step = (torch.tensor(value) / chosen.scale).round().clamp(-chosen.zero_point, 255 - chosen.zero_point)
    assert abs(float(step) * chosen.scale - value) <= max(0.02 * abs(value), 1e-9)


def test_input_graph_is_unchanged_and_result_is_deterministic() -> None:
    graph = quantized(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), (3, 6, 6), bits="w3a4"
    )
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    x = torch.randn(8, 3, 6, 6)
    first, second = calibrate(graph, [(x,)]), calibrate(graph, [(x,)])
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())
    assert torch.equal(first(x)[0], second(x)[0])


def test_zero_is_exactly_representable() -> None:
    graph = calibrate(quantized(nn.Linear(4, 3), (4,)), [(torch.rand(8, 4) + 5.0,)])
    (quantizer,) = (node for node in graph.graph.nodes if is_quantizer(graph, node))
    quant = read_act_quant(graph.get_submodule(str(quantizer.target)))
    assert quant.zero_point == 0
    assert quant.scale * quant.quant_max >= 5.0


def test_bias_correction_lowers_the_error_of_low_bits() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)
    )
    stages = run_stages(module, (3, 12, 12), bits="w2a8", batch=4)  # too few samples to correct on
    more = run_stages(module, (3, 12, 12), bits="w2a8", batch=64)
    error = [s.outputs()[0].mean((0, 2, 3)) - s.outputs()[1].mean((0, 2, 3)) for s in (stages, more)]
    assert error[1].abs().sum() < 0.5 * error[0].abs().sum()


def test_more_bits_are_closer_to_float() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    torch.manual_seed(0)
    results = [run_stages(module, (3, 12, 12), bits=bits).outputs() for bits in ("w2a4", "w4a6", "w8a8")]
    ratios = [signal_to_noise_db(wanted, given) for wanted, _, given in results]
    assert ratios[0] < ratios[1] < ratios[2]


def test_no_batches_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="at least one batch"):
        calibrate(quantized(nn.Linear(4, 3), (4,)), [])


def test_batch_of_another_shape_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="shapes"):
        calibrate(quantized(nn.Linear(4, 3), (4,)), [(torch.randn(8, 5),)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_input_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(UnsupportedModelError, match="NaN or infinity in an input"):
        calibrate(quantized(nn.Linear(4, 3), (4,)), [(torch.full((8, 4), value),)])


def test_activation_that_overflows_is_an_error_that_names_the_layer() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        module[0].weight.fill_(1e30)
        module[1].weight.fill_(1e30)
    with pytest.raises(UnsupportedModelError, match="output of 1 "):
        calibrate(quantized(module, (4,)), [(torch.ones(8, 4),)])


def test_output_step_is_the_observed_range_over_255() -> None:
    x = torch.randn(8, 4)
    graph = calibrate(quantized(nn.Linear(4, 3), (4,)), [(x,)])
    with torch.no_grad():
        wanted = graph(x)[0]
    extent = wanted.max().clamp(min=0) - wanted.min().clamp(max=0)
    assert graph.meta["output_steps"][0] == pytest.approx(float(extent) / 255, rel=0.05)
