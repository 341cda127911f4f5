"""Latency: when a measurement is enough, what it warns of, and comparisons, on a device whose times are made up."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from haqnas.devices.comparison import LEAST_ROUNDS, Comparison, compare_latency
from haqnas.devices.device import Device
from haqnas.devices.latency import Latency, TimingPlan, measure_latency
from haqnas.devices.statistics import LEAST_SAMPLES
from haqnas.errors import ConfigurationError, DeviceError
from tests.devices.scripted import ScriptedDevice, Times

PROGRAM = Path("program")


def noisy(rng: np.random.Generator, median_s: Callable[[float], float], noise: float) -> Times:
    """Times around `median_s(now)`; processes differ by a tenth of the noise."""

    def times(_executable: Path, now_s: float, runs: int) -> np.ndarray:
        level_s = median_s(now_s) * np.exp(0.1 * noise * rng.standard_normal())
        return np.asarray(level_s * np.exp(noise * rng.standard_normal(runs)))

    return times


def measure(times: Times, plan: TimingPlan) -> tuple[Latency, ScriptedDevice]:
    device = ScriptedDevice(times)
    checked: Device = device  # it is one
    return measure_latency(PROGRAM, checked, plan, 60.0, clock=device.clock), device


def test_a_quiet_device_is_measured_until_the_interval_is_narrow(rng: np.random.Generator) -> None:
    latency, device = measure(noisy(rng, lambda _: 1e-3, 0.02), TimingPlan(precision=0.01))
    assert (latency.kind, latency.device, latency.stopped) == ("measured", "scripted", "precision")
    assert latency.low_s is not None
    assert latency.high_s is not None
    assert (latency.high_s - latency.low_s) / 2 <= 0.01 * 1e-3
    assert latency.median_s == pytest.approx(1e-3, rel=0.01)
    assert latency.warnings == ()
    assert latency.fingerprint == device.fingerprint()
    assert latency.to_document()["fingerprint"]["cpu"] == "of the test"
    assert len(device.commands) >= LEAST_SAMPLES  # processes
    assert device.now_s < 5


def test_more_precision_takes_more_runs(rng: np.random.Generator) -> None:
    counts = [
        measure(noisy(rng, lambda _: 1e-3, 0.2), TimingPlan(precision=precision, limit_s=100))[0].count
        for precision in (0.05, 0.01)
    ]
    assert counts[1] > 2 * counts[0]


def test_one_process_tells_nothing_of_how_processes_differ() -> None:
    """Each process is exactly repeatable, but they differ by a tenth: the interval says so."""
    levels = iter(np.tile([1.0e-3, 1.1e-3], 1000))
    latency, _ = measure(lambda _e, _n, runs: [next(levels)] * runs, TimingPlan(precision=0.01, limit_s=5))
    assert latency.stopped == "time"
    assert (latency.low_s, latency.high_s) == (1.0e-3, 1.1e-3)


def test_the_time_limit_ends_a_measurement_and_says_what_was_reached(rng: np.random.Generator) -> None:
    latency, device = measure(noisy(rng, lambda _: 1e-2, 0.5), TimingPlan(precision=0.001, limit_s=3.0))
    assert latency.stopped == "time"
    assert 3.0 <= device.now_s < 6.0
    (warning,) = latency.warnings
    assert "not +-0.1%" in warning
    assert "--time-limit" in warning


def test_a_device_slower_than_the_limit_gives_one_run() -> None:
    latency, _ = measure(lambda _e, _n, runs: [30.0] * runs, TimingPlan(limit_s=2.0))
    assert (latency.count, latency.stopped, latency.low_s) == (1, "time", None)
    assert "unknown" in latency.warnings[0]


def test_exact_runs_are_one_process(rng: np.random.Generator) -> None:
    latency, device = measure(noisy(rng, lambda _: 1e-3, 0.02), TimingPlan(runs=7))
    assert (latency.count, latency.stopped) == (7, "runs")
    assert device.commands == [("program", "--bench", "7", "--seconds", "60")]


def test_cold_caches_are_asked_for_and_reported(rng: np.random.Generator) -> None:
    latency, device = measure(noisy(rng, lambda _: 1e-3, 0.02), TimingPlan(runs=7, caches="cold"))
    assert device.commands[0][-1] == "--cold"
    assert latency.caches == "cold"


def test_throttling_warns_with_the_way_out(rng: np.random.Generator) -> None:
    times = noisy(rng, lambda now_s: 1e-3 if now_s < 3 else 1.2e-3, 0.02)
    latency, _ = measure(times, TimingPlan(precision=0.0001, limit_s=6.0))
    assert any("rose by" in warning and "--sustained" in warning for warning in latency.warnings)


def test_preemptions_warn_and_leave_the_median(rng: np.random.Generator) -> None:
    def times(_executable: Path, _now_s: float, runs: int) -> np.ndarray:
        return np.where(rng.random(runs) < 0.05, 1e-2, 1e-3 * (1 + 0.001 * rng.standard_normal(runs)))

    latency, _ = measure(times, TimingPlan())
    assert latency.median_s == pytest.approx(1e-3, rel=0.01)
    assert latency.outliers == pytest.approx(0.05 * latency.count, rel=0.3)
    assert any("preempts" in warning and "10 times" in warning for warning in latency.warnings)


def test_sustained_reports_what_comes_after_the_device_has_throttled(rng: np.random.Generator) -> None:
    """The clock falls over the first 12 of 60 seconds."""
    times = noisy(rng, lambda now_s: 1e-3 * (1 + 0.5 * min(1.0, now_s / 12)), 0.01)
    latency, device = measure(times, TimingPlan(sustained_s=60.0))
    assert device.now_s >= 60
    assert latency.median_s == pytest.approx(1.5e-3, rel=0.02)
    assert latency.p95_s == pytest.approx(1.5e-3, rel=0.05)
    assert latency.steady_after_s is not None
    assert 9 < latency.steady_after_s < 15
    assert latency.warnings == ()


def test_sustained_without_a_steady_state_says_so(rng: np.random.Generator) -> None:
    latency, _ = measure(noisy(rng, lambda now_s: 1e-3 + 1e-4 * now_s, 0.01), TimingPlan(sustained_s=20.0))
    assert latency.steady_after_s is None
    assert any("no steady state within 20 s" in warning for warning in latency.warnings)


@pytest.mark.parametrize("times", [[], [0.0], [-1.0]])
def test_times_that_cannot_be_are_a_device_error(times: list[float]) -> None:
    with pytest.raises(DeviceError, match="cannot be"):
        measure(lambda _e, _n, _r: times, TimingPlan(runs=1))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"runs": 0}, "at least 1"),
        ({"runs": 2_000_000}, "at most 1,000,000"),
        ({"precision": 0.0}, "between 0 and 1"),
        ({"precision": float("nan")}, "between 0 and 1"),
        ({"limit_s": 0.0}, "time limit"),
        ({"sustained_s": 1.0}, "5 to 86400"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TimingPlan(**plan)  # type: ignore[arg-type]


def compare(times: Times, plan: TimingPlan) -> tuple[Comparison, ScriptedDevice]:
    device = ScriptedDevice(times)
    found = compare_latency(Path("one"), Path("other"), device, plan, 60.0, clock=device.clock)
    return found, device


def under_load(rng: np.random.Generator, first_s: float) -> Times:
    """`one` takes `first_s`, `other` 1 ms; the load of the machine grows and jumps, for both."""

    def times(executable: Path, now_s: float, runs: int) -> np.ndarray:
        own_s = first_s if executable.name == "one" else 1e-3
        load = (1 + 0.02 * now_s) * (1.3 if int(now_s) % 3 == 0 else 1.0)
        return np.asarray(own_s * load * np.exp(0.02 * rng.standard_normal(runs)))

    return times


def test_a_faster_program_is_told_under_changing_load(rng: np.random.Generator) -> None:
    found, device = compare(under_load(rng, 0.88e-3), TimingPlan(precision=0.02))
    assert found.low < 0.88 < found.high
    assert found.stopped == "precision"
    assert found.verdict.startswith("faster by 1")
    assert found.p_value is not None
    assert found.p_value < 0.01
    turns = [command[0] for command in device.commands]
    assert turns == ["one", "other", "other", "one"] * found.rounds


def test_a_slower_program_is_told(rng: np.random.Generator) -> None:
    found, _ = compare(under_load(rng, 1.25e-3), TimingPlan(precision=0.02))
    assert found.verdict.startswith("slower by 2")
    assert found.low > 1


def test_a_program_does_not_differ_from_itself() -> None:
    """Of 20 comparisons at 95 %, chance alone finds more than 4 differences less than once in a hundred times."""
    rng = np.random.default_rng(7)
    differing = [
        found
        for _ in range(20)
        if not (found := compare(under_load(rng, 1e-3), TimingPlan(precision=0.02))[0]).low <= 1 <= found.high
    ]
    assert len(differing) <= 4
    found, _ = compare(under_load(rng, 1e-3), TimingPlan(runs=LEAST_ROUNDS))
    assert "no difference beyond noise" in found.verdict or found in differing


def test_a_comparison_ends_at_its_time_limit(rng: np.random.Generator) -> None:
    found, device = compare(noisy(rng, lambda _: 1e-3, 0.5), TimingPlan(precision=0.0001, limit_s=8.0))
    assert found.stopped == "time"
    assert 8.0 <= device.now_s < 10.0
