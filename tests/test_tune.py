"""Tuning: candidates are timed inside the network, in turn, within a time; times are kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import haqnas.tune as tuning
from haqnas.codegen.link import choose_linker
from haqnas.devices.device import Completed
from haqnas.devices.local import LocalDevice, read_host_cpu
from haqnas.devices.qemu import QemuDevice
from haqnas.errors import ConfigurationError, DeviceError
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
from haqnas.timings import Timings
from haqnas.tune import Request, choose_rows, rank_layers, require_clock, serious, tune
from tests.zoo import ZOO

LAYER = Geometry("dot", 1, 64, 32, 48, (0,), 32, 0, 48, 0, 32, 0, 0, 255, 8, 8)
OTHER = replace(LAYER, channels=64)


def times(*milliseconds: float) -> dict[tuple[Geometry, str], float]:
    return {(LAYER, name): value * 1e-3 for name, value in zip("abc", milliseconds, strict=False)}


def test_the_fastest_candidate_wins():
    assert choose_rows({LAYER: ("a", "b", "c")}, times(10, 8, 5)) == {LAYER: "c"}


@pytest.mark.parametrize("measured", [times(10, 9.9), times(10, 20), times(10), {}, {(LAYER, "b"): 1.0}])
def test_the_choice_by_rule_stays_where_nothing_is_clearly_faster(measured):
    assert choose_rows({LAYER: ("a", "b", "c")}, measured) == {}


def test_timings_outlive_a_process_and_other_contexts_do_not_see_them(tmp_path):
    kept = Timings(tmp_path, {"cpu": "one"})
    assert kept.get(LAYER, "a") is None
    kept.put({(LAYER, "a"): 1.5e-6, (OTHER, "a"): 2e-6})
    kept.put({(LAYER, "a"): 2.5e-6})
    assert Timings(tmp_path, {"cpu": "one"}).get(LAYER, "a") == 2.5e-6
    assert Timings(tmp_path, {"cpu": "two"}).get(LAYER, "a") is None
    assert kept.get(LAYER, "b") is None
    assert kept.get(replace(LAYER, zero_point=1), "a") is None


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


@pytest.fixture
def request_on(monkeypatch, tmp_path):
    """A small network, and variants that are lowered but neither compiled nor linked."""
    model, inputs = ZOO["ds_cnn"]()
    quantized = quantize(normalise(trace(model, inputs)), Policy(QuantSpec.parse("w8a8")))
    graph = integerize(calibrate(quantized, [inputs]))
    host = read_host_cpu()

    def make(device) -> Request:
        profile = find_profile("x86-avx512-vnni", host)
        return Request(graph, profile, "net", 1, choose_linker(profile.triple), device, 10.0)

    def build(request: Request, index: int, folder: Path) -> tuning.Variant:
        program = tuning._lowered(request, index)
        rows = {layer.name: (layer.geometry, layer.row) for layer in program.layers if layer.geometry}
        executable = folder / "never-run"
        request.device.rows[executable] = rows
        return tuning.Variant(executable, rows)

    monkeypatch.setattr(tuning, "_build", build)
    return make


def test_layers_get_what_is_fastest_on_the_device_and_the_second_time_nothing_runs(request_on, tmp_path):
    fast = "dot/avx512-vnni/12x16"
    device = ScriptedDevice(fast)
    request, timings, notes = request_on(device), Timings(tmp_path, {}), []
    choices = tune(request, tmp_path, timings, notes.append, Stopwatch(0.01))
    ranked = rank_layers(request)
    assert choices
    assert all(fast in ranked[geometry] and ranked[geometry][0] != fast for geometry in choices)
    assert set(choices) == {g for g, names in ranked.items() if fast in names[1:]}
    assert set(choices.values()) == {fast}
    assert any("timing" in note for note in notes)
    runs = device.runs
    assert runs >= tuning.LEAST_ROUNDS * 2
    assert tune(request, tmp_path, timings, notes.append, Stopwatch(0.01)) == choices
    assert device.runs == runs


def test_time_that_is_up_still_gives_two_variants_and_three_rounds(request_on, tmp_path):
    device = ScriptedDevice("none")
    assert (
        tune(request_on(device), tmp_path, Timings(tmp_path, {}), lambda note: None, Stopwatch(100.0)) == {}
    )
    assert device.runs == 2 * tuning.LEAST_ROUNDS


def test_a_device_that_fails_is_named(request_on, tmp_path):
    class Failing(ScriptedDevice):
        def run(self, executable, arguments, timeout_s):
            return Completed(1, "", "no such CPU", 0.0)

    with pytest.raises(DeviceError, match=r"failed on scripted: no such CPU; leave --tune-time out"):
        tune(request_on(Failing("a")), tmp_path, Timings(tmp_path, {}), lambda note: None, Stopwatch(0.01))
