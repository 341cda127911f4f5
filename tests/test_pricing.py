"""Pricing: sums of measured kernels against programs that run as a whole."""

import random
import time

import numpy as np
import pytest
import torch

from haqnas.codegen.lower import lower
from haqnas.devices.kernel_times import KernelTime, kernels_of
from haqnas.graph.layers import list_layers
from haqnas.measure import Subject, measure, whole_kernel
from haqnas.pricing import (
    SUM,
    NetworkModel,
    fit_model,
    layer_prices,
    lower_uniform,
    program_cost,
    program_times,
)
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.serialize import save_graph
from haqnas.space.policy import Policy
from tests.measured import PROFILES, bench, canonical_network, subject, uniform_programs

SPECS = ("w8a8", "w4a8", "w4a4", "w2a4")


def fitted(programs, times):
    return fit_model(
        program_times([(str(index), made) for index, made in enumerate(programs)], times).values()
    )


def test_lowering_makes_the_graph_that_the_stages_make():
    """It calibrates in place, because it holds the only reference."""
    canonical, inputs = canonical_network("ds_cnn")
    batch = (torch.randn(8, *inputs[0].shape[1:]),)  # so many that biases are corrected
    for spec in map(QuantSpec.parse, ("w8a8", "w4a8", "w2a4")):
        one = lower_uniform(canonical, [batch], PROFILES["cortex-a72"], spec, "net").graph
        other = integerize(calibrate(quantize(canonical, Policy(spec)), [batch]))
        (text, arrays), (other_text, other_arrays) = save_graph(one), save_graph(other)
        assert text == other_text
        assert arrays.keys() == other_arrays.keys()
        assert all(np.array_equal(arrays[name], other_arrays[name]) for name in arrays)


@pytest.mark.arm
@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2"])
def test_mixed_policies_cost_what_their_programs_count(tmp_path, network):
    profile = PROFILES["cortex-a72"]
    canonical, inputs = canonical_network(network)
    uniforms = uniform_programs(canonical, inputs, profile, *SPECS)
    device = bench(profile, tmp_path / "cache")
    times = measure(
        [subject(uniform) for uniform in uniforms], device, tmp_path / "work", lambda *_: None
    ).times
    model = fitted([uniform.program for uniform in uniforms], times)
    assert model.error < 0.001
    prices = layer_prices(canonical, uniforms, times)
    rng = random.Random(7)
    names = [layer.name for layer in list_layers(canonical)]
    policies = [
        Policy(QuantSpec(8, 8), {name: QuantSpec.parse(rng.choice(SPECS)) for name in names})
        for _ in range(3)
    ]
    graphs = [integerize(calibrate(quantize(canonical, policy), [inputs])) for policy in policies]
    programs = [lower(graph, profile, "net") for graph in graphs]
    mixed = [Subject(str(index), program) for index, program in enumerate(programs)]
    counted = measure(mixed, device, tmp_path / "mixed", lambda *_: None).times
    errors = [
        prices.price(policy, model) / counted[whole_kernel(program)].amount - 1
        for policy, program in zip(policies, programs, strict=True)
    ]
    assert np.mean(np.abs(errors)) < 0.03, errors
    for uniform in uniforms:  # no error where no bits are mixed
        whole = counted[whole_kernel(uniform.program)].amount
        assert prices.price(Policy(uniform.spec), model) == pytest.approx(whole, rel=0.01)


def made_up_times(programs, rng):
    times = {
        kernel: KernelTime(float(rng.uniform(1e-6, 1e-5)), 0.0, 1)
        for program in programs
        for kernel in kernels_of(program)
    }
    for program in programs:
        cost = program_cost(program, times)
        times[whole_kernel(program)] = KernelTime(1.1 * cost.amount + 2e-8 * cost.calls, 0.0, 1)
    return times


@pytest.fixture(scope="module")
def resnet():
    canonical, inputs = canonical_network("resnet20")
    return canonical, uniform_programs(canonical, inputs, PROFILES["arm-cpu"], *SPECS)


def test_the_model_is_recovered_from_whole_runs(resnet, rng):
    programs = [uniform.program for uniform in resnet[1]]
    model = fitted(programs, made_up_times(programs, rng))
    assert (model.scale, model.per_call) == pytest.approx((1.1, 2e-8))
    assert model.error < 1e-9
    assert model.num_programs == len(programs)


def test_without_whole_runs_the_sum_stands(resnet, rng):
    programs = [uniform.program for uniform in resnet[1]]
    times = {k: v for k, v in made_up_times(programs, rng).items() if k[0] != "program"}
    assert fitted(programs, times) == SUM
    assert fitted([], {}) == SUM


def test_a_mixed_policy_is_priced_at_once(resnet, rng):
    canonical, uniforms = resnet
    prices = layer_prices(canonical, uniforms, made_up_times([u.program for u in uniforms], rng))
    choice = random.Random(1)
    policies = [
        Policy(QuantSpec(8, 8), {name: QuantSpec.parse(choice.choice(SPECS)) for name in prices.layers})
        for _ in range(50)
    ]
    start_s = time.perf_counter()
    for policy in policies:
        prices.price(policy, SUM)
    assert (time.perf_counter() - start_s) / len(policies) < 0.005


def test_conversions_are_paid_once_and_only_where_read(resnet, rng):
    canonical, uniforms = resnet
    prices = layer_prices(canonical, uniforms, made_up_times([u.program for u in uniforms], rng))
    assert prices.conversions  # values of ResNet-20's sums are stored at 8 bits
    wide = prices.price(Policy(QuantSpec(8, 8)), SUM)
    conversion = prices.conversions[0]
    (reader, *_) = conversion.readers
    narrowed = Policy(QuantSpec(8, 8), {reader: QuantSpec(4, 4)})
    layer = prices.layers[reader]
    expected = wide + layer[QuantSpec(4, 4)].amount - layer[QuantSpec(8, 8)].amount + conversion.cost.amount
    assert prices.price(narrowed, SUM) == pytest.approx(expected)


def test_bits_that_were_not_measured_have_no_price(resnet, rng):
    canonical, uniforms = resnet
    prices = layer_prices(canonical, uniforms, made_up_times([u.program for u in uniforms], rng))
    with pytest.raises(KeyError):
        prices.price(Policy(QuantSpec(5, 8)), NetworkModel(1.0, 0.0, 0.0, 1))
