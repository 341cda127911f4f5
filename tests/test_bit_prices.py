"""Prices of a network at all bits that may be chosen: what the table lacks is measured, and what fails is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from haqnas import bit_prices
from haqnas.bit_prices import predict_program, price_graphs, time_source
from haqnas.bit_search import Judge, Search, search_bits
from haqnas.budgets import Budgets
from haqnas.codegen.link import choose_linker
from haqnas.codegen.lower import lower
from haqnas.devices.kernel_times import kernels_of
from haqnas.devices.local import read_host_cpu
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import profile_path
from haqnas.latency_table import read_table
from haqnas.measure import Measured, Subject, measure, whole_kernel
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.search.ilp import Budget, Problem, reach
from haqnas.space.knobs import WIDEST, Rules, derive_space
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from tests.measured import PROFILES, bench

SPECS = tuple(map(QuantSpec.parse, ("w8a8", "w4a8", "w2a4")))
VERSIONS = {"haqnas_source": "test", "apache-tvm": "test"}


class Branching(nn.Module):
    """Two layers read one value, so that it is narrowed for one of them where their bits differ."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)
        self.deep, self.head = nn.Conv2d(64, 64, 3), nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(torch.relu(self.deep(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    inputs = (torch.rand(1, 3, 16, 16),)
    return normalise(trace(Branching().eval(), inputs)), inputs


def table_of(target):
    return read_table(profile_path(target, read_host_cpu()))


def source_of(target, table, device, folder):
    profile = PROFILES[target]
    return time_source(profile, table, device, choose_linker(profile.triple), folder, VERSIONS)


@pytest.mark.arm
def test_what_the_ilp_predicts_is_what_its_program_counts(network, tmp_path):
    """No table: every kernel is counted once; the searched policy's own program is within 3 % of its prediction."""
    canonical, inputs = network
    device = bench(PROFILES["cortex-a72"], tmp_path / "times")
    source = source_of("cortex-a72", None, device.device, tmp_path / "caches")
    (prices,) = price_graphs([(canonical, inputs)], SPECS, source, "net", tmp_path / "work", lambda _: None)
    assert (prices.unit, prices.source, prices.refused) == ("instructions", "measured on qemu:cortex-a72", {})

    def simulate(policy):
        return integerize(calibrate(quantize(canonical, policy), [inputs]))

    losses = {
        layer.name: {spec: 8.0 * index * (1 + (layer.name == "right")) for index, spec in enumerate(SPECS)}
        for layer in list_layers(canonical)
    }
    space = derive_space(canonical, SPECS, Rules(include=("left", "right", "deep")))
    search = Search(space, prices, Budgets(), simulate, source)
    int8 = prices.prices.price(Policy(WIDEST), prices.model)
    problem = Problem(space, losses, prices.prices, prices.model, prices.sizes)
    limit = (reach(problem).latency[0] + int8) / 2
    assert limit < 0.95 * int8
    judge = Judge(lambda _: 0.0, float, "nothing")
    found = search_bits(
        search, Budget(latency=limit), Sensitivity("kl", 1, losses, {}), judge, lambda _: None
    )
    assert {found.policy.spec_of(name) for name in ("left", "right", "deep")} != {WIDEST}
    program = lower(simulate(found.policy), PROFILES["cortex-a72"], "net")
    counted = measure([Subject("chosen", program)], device, tmp_path / "chosen", lambda *_: None).times
    whole = counted[whole_kernel(program)].amount
    assert found.record.predicted_latency == pytest.approx(whole, rel=0.03)
    assert whole <= limit * 1.03


def test_a_table_alone_estimates_what_it_lacks(network, tmp_path):
    canonical, inputs = network
    source = source_of("arm-cpu", table_of("arm-cpu"), None, tmp_path)
    (prices,) = price_graphs([(canonical, inputs)], SPECS, source, "net", tmp_path, lambda _: None)
    assert "kernels estimated from others" in prices.source
    uniform = lower(
        integerize(calibrate(quantize(canonical, Policy(WIDEST)), [inputs])), source.profile, "net"
    )
    predicted = predict_program(uniform, source, prices.model)
    assert predicted is not None
    assert predicted.estimated > 0
    assert predicted.amount == pytest.approx(prices.prices.price(Policy(WIDEST), prices.model), rel=1e-6)


def test_a_table_of_another_machine_is_no_guide_to_times(tmp_path):
    table = table_of("x86-64-v3")
    device = bench(PROFILES["x86-64-v3"], tmp_path / "times").device
    key = device.fingerprint().key
    ours, others = (
        replace(table, provenance=replace(table.provenance, machine={"key": made_on}))
        for made_on in (key, "other")
    )
    assert source_of("x86-64-v3", ours, device, tmp_path).table is ours
    assert source_of("x86-64-v3", others, device, tmp_path).table is None
    counts = replace(table, provenance=replace(table.provenance, kind="emulated"))
    assert source_of("x86-64-v3", counts, device, tmp_path).table is None


def test_without_table_and_device_there_are_no_prices(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"need the times of kernels.*make a profile with haqnas profile"
    ):
        source_of("x86-amx", None, None, tmp_path)


@pytest.mark.parametrize(("fails", "is_told"), [("w2a4", False), ("w8a8", True)])
def test_bits_that_do_not_run_are_refused(network, tmp_path, monkeypatch, fails, is_told):
    canonical, inputs = network
    device = bench(PROFILES["x86-64-v3"], tmp_path / "times").device
    source = source_of("x86-64-v3", None, device, tmp_path)

    def measured(subjects, *_):
        times = {kernel: time for kernel, time in table_of("x86-64-v3").kernels.items()}
        (some, *_) = times.values()
        times |= {kernel: some for subject in subjects for kernel in kernels_of(subject.program)}
        return Measured(times, {f"net {fails}": "crashed"}, len(times))

    monkeypatch.setattr(bit_prices, "measure", measured)
    if is_told:
        with pytest.raises(DeviceError, match="net w8a8 has no time: crashed"):
            price_graphs([(canonical, inputs)], SPECS, source, "net", Path(tmp_path), lambda _: None)
        return
    (prices,) = price_graphs([(canonical, inputs)], SPECS, source, "net", Path(tmp_path), lambda _: None)
    assert prices.refused == {QuantSpec(2, 4): "crashed"}
    assert set(prices.sizes["deep"]) == {QuantSpec(8, 8), QuantSpec(4, 8)}
