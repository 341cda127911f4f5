"""Tuning: candidates are timed inside the network, in turn, within a time; times are kept."""

import json
from pathlib import Path

import pytest
from torch import nn

import haqnas.tune as tuning
from haqnas.codegen.link import choose_linker
from haqnas.codegen.program import Program
from haqnas.devices.cache import KernelCache
from haqnas.devices.device import Completed
from haqnas.devices.local import LocalDevice, read_host_cpu
from haqnas.devices.qemu import QemuDevice
from haqnas.errors import ConfigurationError, ProgramError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import find_profile
from haqnas.kernels.row import Geometry
from haqnas.kernels.table import candidates
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy
from haqnas.tune import (
    Request,
    choose_rows,
    kernel_of,
    lower_variants,
    rank_layers,
    require_clock,
    serious,
    tune,
)
from tests.zoo import ZOO, build

LAYER = Geometry("dot", 1, 64, 32, 48, (0,), 32, 0, 48, 0, 32, 0, 0, 255, 8, 8)


def times(*milliseconds: float) -> dict[tuple[Geometry, str], float]:
    return {(LAYER, name): value * 1e-3 for name, value in zip("abc", milliseconds, strict=False)}


def test_the_fastest_candidate_wins():
    assert choose_rows({LAYER: ("a", "b", "c")}, times(10, 8, 5)) == {LAYER: "c"}


@pytest.mark.parametrize("measured", [times(10, 9.9), times(10, 20), times(10), {}, {(LAYER, "b"): 1.0}])
def test_the_choice_by_rule_stays_where_nothing_is_clearly_faster(measured):
    assert choose_rows({LAYER: ("a", "b", "c")}, measured) == {}


def test_a_device_must_measure_time():
    assert require_clock(LocalDevice(), "host").uri == "local"
    with pytest.raises(ConfigurationError, match="counts instructions; leave --tune-time out"):
        require_clock(QemuDevice("qemu-aarch64", "cortex-a53"), "cortex-a53")
    with pytest.raises(ConfigurationError, match="no device here runs it"):
        require_clock(None, "riscv64")


def test_serious_candidates_are_special_ones_in_order():
    isas = find_profile("x86-avx512-vnni", read_host_cpu()).isas
    names = [row.name for row in serious(LAYER, isas)]
    assert names == [row.name for row in candidates(LAYER, isas) if row.isa != "portable"][: len(names)]
    assert 1 < len(names) <= tuning.MOST_CANDIDATES
    assert [row.isa for row in serious(LAYER, ())] == ["portable"]


class Stopwatch:
    """A clock that moves on by `step_s` each time that it is read."""

    def __init__(self, step_s: float):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


class ScriptedDevice:
    """Says that the candidate named `fast` takes 1 us and others 2, without running anything."""

    uri, latency_kind = "scripted", "measured"

    def __init__(self, fast: str):
        self.fast, self.runs, self.rows = fast, 0, {}

    def run(self, executable: Path, arguments, timeout_s: float) -> Completed:
        self.runs += 1
        calls = [
            {"layer": layer, "median_ns": 1000 if row == self.fast else 2000}
            for layer, (_, row) in self.rows[executable].items()
        ]
        return Completed(0, json.dumps({"calls": calls}), "", 0.0)


NETWORKS = (("ds_cnn", "x86-avx512-vnni"), ("resnet20", "x86-amx"))
FAST = {"x86-avx512-vnni": "dot/avx512-vnni/8x32", "x86-amx": "dot/amx-int8/4x16"}


@pytest.fixture(scope="module", params=NETWORKS, ids=[name for name, _ in NETWORKS])
def network(request):
    """An integer graph and the target that it is tuned for; lowering needs no such CPU."""
    name, target = request.param
    model, inputs = ZOO[name]()
    quantized = quantize(normalise(trace(model, inputs)), Policy(QuantSpec.parse("w8a8")))
    return integerize(calibrate(quantized, [inputs])), find_profile(target, read_host_cpu())


@pytest.fixture
def request_on(network, monkeypatch):
    """A small network, and variants that are lowered but neither compiled nor linked."""
    graph, profile = network

    def make(device) -> Request:
        return Request(graph, profile, "net", 1, choose_linker(profile.triple), device, 10.0)

    def build(request: Request, program: Program, folder: Path) -> tuning.Variant:
        rows = tuning.rows_of(program)
        executable = folder / "never-run"
        request.device.rows[executable] = rows
        return tuning.Variant(executable, rows)

    monkeypatch.setattr(tuning, "_build", build)
    return make


def test_layers_get_what_is_fastest_on_the_device_and_the_second_time_nothing_runs(
    request_on, network, tmp_path
):
    fast = FAST[network[1].name]
    device = ScriptedDevice(fast)
    request, timings, notes = request_on(device), KernelCache(tmp_path, {}), []
    choices = tune(request, tmp_path, timings, notes.append, Stopwatch(0.01))
    ranked = rank_layers(lower_variants(request))
    assert choices
    assert choices == {g: fast for g, names in ranked.items() if fast in names[1:]}
    assert any("timing" in note for note in notes)
    runs = device.runs
    assert runs >= tuning.LEAST_ROUNDS * 2
    assert tune(request, tmp_path, timings, notes.append, Stopwatch(0.01)) == choices
    assert device.runs == runs


def test_what_there_was_no_time_for_is_measured_the_next_time(request_on, tmp_path):
    device, timings = ScriptedDevice("none"), KernelCache(tmp_path, {})
    request = request_on(device)
    variants = len(lower_variants(request))
    for _ in range(1, variants):  # each time the first and one more
        before = device.runs
        tune(request, tmp_path, timings, lambda note: None, Stopwatch(100.0))
        assert device.runs == before + 2 * tuning.LEAST_ROUNDS
    tune(request, tmp_path, timings, lambda note: None, Stopwatch(100.0))
    assert device.runs == before + 2 * tuning.LEAST_ROUNDS


def test_a_layer_that_another_row_reads_differently_is_not_compared(request_on):
    programs = lower_variants(request_on(None))
    ranked = rank_layers(programs)
    by_rule = dict(tuning.rows_of(programs[0]).values())
    met = {pair for program in programs for pair in tuning.rows_of(program).values()}
    assert {geometry: names[0] for geometry, names in ranked.items()}.items() <= by_rule.items()
    # else a candidate that never runs would be measured again by every compilation
    assert {(geometry, name) for geometry, names in ranked.items() for name in names} <= met


def test_time_that_is_up_still_gives_two_variants_and_three_rounds(request_on, tmp_path):
    device = ScriptedDevice("none")
    assert (
        tune(request_on(device), tmp_path, KernelCache(tmp_path, {}), lambda note: None, Stopwatch(100.0))
        == {}
    )
    assert device.runs == 2 * tuning.LEAST_ROUNDS


def test_a_device_that_fails_is_named(request_on, tmp_path):
    class Failing(ScriptedDevice):
        def run(self, executable, arguments, timeout_s):
            return Completed(1, "", "no such CPU", 0.0)

    with pytest.raises(ProgramError, match=r"failed on scripted: no such CPU; leave --tune-time out"):
        tune(
            request_on(Failing("a")), tmp_path, KernelCache(tmp_path, {}), lambda note: None, Stopwatch(0.01)
        )


def test_variants_are_built_and_timed_on_this_machine(tmp_path):
    model, inputs = build(
        lambda: nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)), (1, 16, 6, 6)
    )
    quantized = quantize(normalise(trace(model, inputs)), Policy(QuantSpec.parse("w8a8")))
    profile = find_profile("host", read_host_cpu())
    linker = choose_linker(profile.triple)
    request = Request(
        integerize(calibrate(quantized, [inputs])), profile, "net", 1, linker, LocalDevice(), 0.0
    )
    ranked = rank_layers(lower_variants(request))
    assert ranked
    cache = KernelCache(tmp_path / "times", {})
    choices = tune(request, tmp_path / "work", cache, lambda note: None)
    known = cache.known()
    assert known.keys() == {
        kernel_of((geometry, name)) for geometry, names in ranked.items() for name in names[:2]
    }
    assert all(0 < time.amount < 1 for time in known.values())
    assert all(time.runs == tuning.LEAST_ROUNDS * tuning.RUNS for time in known.values())
    assert all(name in ranked[geometry] for geometry, name in choices.items())
