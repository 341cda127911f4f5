"""Latency of an executable on a device: measured time and its interval, or counted work where it is emulated."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from haqnas.devices.cycles import model_cycles
from haqnas.devices.device import Device, LatencyKind
from haqnas.devices.fingerprint import Fingerprint
from haqnas.devices.qemu import QemuDevice
from haqnas.devices.statistics import Summary, steady_start, summarise, summarise_batches
from haqnas.errors import ConfigurationError, ProgramError

Caches = Literal["warm", "cold"]
# Why a measurement ended: the interval is as narrow as asked, or time or runs were used up.
Stopped = Literal["precision", "time", "runs"]

FIRST_RUNS = 100
BATCH_S = 0.25  # of runs in one process
MOST_RUNS = 1_000_000  # of all processes
MOST_BATCH_RUNS = 50_000  # what one process prints stays below a megabyte
SUSTAINED_BATCH_S = 1.0
LEAST_SUSTAINED_S = 5.0
_MANY_OUTLIERS = 0.02  # of the runs


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """How long is measured.

    `runs`: exactly so many, in one process. Otherwise until the 95 % interval of the median is at most `precision` to
    each side, as a share of the median, or for `limit_s`. `sustained_s`: so long without a pause, and what counts is
    the time after the steady state began.
    """

    runs: int | None = None
    precision: float = 0.01
    limit_s: float = 10.0
    sustained_s: float | None = None
    caches: Caches = "warm"

    def __post_init__(self) -> None:
        if self.runs is not None and not 1 <= self.runs <= MOST_RUNS:
            raise ConfigurationError(
                f"the number of runs must be at least 1 and at most {MOST_RUNS:,}, but got {self.runs:,}"
            )
        if not 0 < self.precision < 1:
            raise ConfigurationError(
                f"the precision must be between 0 and 1 (0.01: 1 %), but got {self.precision:g}"
            )
        if not 0 < self.limit_s <= 86400:
            raise ConfigurationError(f"the time limit must be 0 to 86400 s, but got {self.limit_s:g}")
        if self.sustained_s is not None and not LEAST_SUSTAINED_S <= self.sustained_s <= 86400:
            raise ConfigurationError(
                f"a sustained measurement takes {LEAST_SUSTAINED_S:g} to 86400 s, but got {self.sustained_s:g}"
            )


DEFAULT_PLAN = TimingPlan()


@dataclass(frozen=True, slots=True)
class Latency:
    """One inference. Times are absent where the device is emulated: they would describe the emulator."""

    kind: LatencyKind | Literal["predicted"]
    device: str
    count: int  # runs that the figures come from; 0 where they are predicted
    median_s: float | None = None
    min_s: float | None = None
    p90_s: float | None = None
    p95_s: float | None = None  # of a sustained measurement
    spread: float | None = None  # (90th - 10th percentile) / median
    low_s: float | None = None  # the median lies between low_s and high_s with 95 % confidence
    high_s: float | None = None
    outliers: int | None = None  # runs far slower than the others; counted, never dropped
    caches: Caches | None = None  # warm: runs follow each other; cold: evicted before each
    stopped: Stopped | None = None
    steady_after_s: float | None = None  # of a sustained measurement
    instructions: int | None = None  # executed by the guest for one inference
    cycles: int | None = None  # of the modelled core: see docs/timing.md for what the model leaves out
    cycle_model: str | None = None  # what `cycles` were computed with
    warnings: tuple[str, ...] = ()
    fingerprint: Fingerprint | None = None  # of the machine, as it was after the measurement

    def to_document(self) -> dict[str, Any]:
        """For JSON: fields that are known."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known if self.fingerprint is None else {**known, "fingerprint": self.fingerprint.to_document()}


def measure_latency(
    executable: Path,
    device: Device,
    plan: TimingPlan,
    timeout_s: float,
    threads: int = 1,
    clock: Callable[[], float] = monotonic,
) -> Latency:
    """Time inferences as `plan` says, or count the work of one where the device is emulated.

    `threads`: that the executable was built for. `timeout_s`: of one process. Raises DeviceError.
    """
    if isinstance(device, QemuDevice):
        latency = _count(executable, device, timeout_s, threads)
    else:
        latency = _time(executable, device, plan, timeout_s, clock)
    return replace(latency, fingerprint=device.fingerprint())


def _time(
    executable: Path, device: Device, plan: TimingPlan, timeout_s: float, clock: Callable[[], float]
) -> Latency:
    if plan.sustained_s is not None:
        return _sustain(executable, device, plan, timeout_s, clock)
    if plan.runs is not None:
        times_s = run_batch(executable, device, plan.runs, timeout_s, plan.caches, timeout_s)
        stopped: Stopped = "runs" if len(times_s) >= plan.runs else "time"
        return to_latency(summarise(times_s), device.uri, plan.caches, stopped)
    return _repeat(executable, device, plan, timeout_s, clock)


def run_batch(
    executable: Path, device: Device, runs: int, limit_s: float, caches: Caches, timeout_s: float
) -> tuple[float, ...]:
    """Seconds of at most `runs` runs in one process, which stops after about `limit_s`; raises DeviceError."""
    seconds = max(1, min(86400, math.ceil(limit_s)))
    cold = ("--cold",) if caches == "cold" else ()
    completed = device.run(
        executable, ("--bench", str(runs), "--seconds", str(seconds), *cold), timeout_s + seconds
    )
    if completed.exit_code != 0:
        raise ProgramError(f"{executable.name} --bench failed on {device.uri}: {completed.stderr.strip()}")
    return _read_times(completed.stdout, executable.name)


def next_runs(median_s: float, batch_s: float) -> int:
    """How many runs take about `batch_s`."""
    return max(1, min(MOST_BATCH_RUNS, int(batch_s / median_s) if median_s > 0 else FIRST_RUNS))


def _repeat(
    executable: Path, device: Device, plan: TimingPlan, timeout_s: float, clock: Callable[[], float]
) -> Latency:
    """Process after process until the interval is narrow enough, or time or runs are used up."""
    deadline = clock() + plan.limit_s
    batches: list[tuple[float, ...]] = []
    runs = FIRST_RUNS
    while True:
        left_s = max(1.0, min(deadline - clock(), 4 * BATCH_S))
        batches.append(run_batch(executable, device, runs, left_s, plan.caches, timeout_s))
        summary = summarise_batches(batches)
        if _half_width(summary) <= plan.precision:
            return to_latency(summary, device.uri, plan.caches, "precision")
        if clock() >= deadline or summary.count >= MOST_RUNS:
            stopped: Stopped = "time" if clock() >= deadline else "runs"
            latency = to_latency(summary, device.uri, plan.caches, stopped)
            return replace(latency, warnings=(*latency.warnings, _imprecise(summary, plan)))
        runs = next_runs(summary.median, BATCH_S)


def _half_width(summary: Summary) -> float:
    return math.inf if summary.interval is None else summary.interval.half_width(summary.median)


def _imprecise(summary: Summary, plan: TimingPlan) -> str:
    found = "unknown" if summary.interval is None else f"+-{_half_width(summary):.1%}"
    return (
        f"the interval is {found}, not +-{plan.precision:.1%}, after {summary.count:,} runs in {plan.limit_s:g} s; "
        "measure on a quieter machine, give it more time (--time-limit), or ask for less (--precision)"
    )


def _sustain(
    executable: Path, device: Device, plan: TimingPlan, timeout_s: float, clock: Callable[[], float]
) -> Latency:
    """Without pause for the whole time; what counts comes after the steady state began."""
    assert plan.sustained_s is not None
    start_s, runs = clock(), FIRST_RUNS
    batches: list[tuple[float, ...]] = []
    ends_s: list[float] = []
    while clock() - start_s < plan.sustained_s:
        batches.append(run_batch(executable, device, runs, SUSTAINED_BATCH_S, plan.caches, timeout_s))
        ends_s.append(clock() - start_s)
        runs = next_runs(summarise(batches[-1]).median, SUSTAINED_BATCH_S)
    first = steady_start(batches)
    kept = batches[len(batches) // 2 if first is None else first :]
    summary = summarise_batches(kept)
    latency = replace(to_latency(summary, device.uri, plan.caches, "time"), p95_s=summary.p95)
    if first is None:
        warning = (
            f"no steady state within {plan.sustained_s:g} s: the figures are of the second half; "
            "give it more time (--sustained)"
        )
        return replace(latency, warnings=(*latency.warnings, warning))
    return replace(latency, steady_after_s=ends_s[first - 1] if first else 0.0)


def to_latency(summary: Summary, device: str, caches: Caches, stopped: Stopped) -> Latency:
    """What is reported of measured times in seconds."""
    interval = summary.interval
    return Latency(
        kind="measured",
        device=device,
        count=summary.count,
        median_s=summary.median,
        min_s=summary.minimum,
        p90_s=summary.p90,
        spread=summary.spread,
        low_s=interval.low if interval else None,
        high_s=interval.high if interval else None,
        outliers=summary.outliers.count,
        caches=caches,
        stopped=stopped,
        warnings=_warnings(summary),
    )


def _warnings(summary: Summary) -> tuple[str, ...]:
    told = []
    outliers, drift = summary.outliers, summary.drift
    if outliers.share > _MANY_OUTLIERS:
        told.append(
            f"{outliers.count:,} of {summary.count:,} runs took far longer than the others, the longest "
            f"{outliers.greatest / summary.median:.0f} times the median: other work preempts this one; the median is "
            "hardly moved, but a quieter machine gives a better figure"
        )
    if drift is not None:
        way, cause = ("rose", "throttles") if drift.change > 0 else ("fell", "was still speeding up")
        told.append(
            f"times {way} by {abs(drift.change):.0%} from the first third of the runs to the last: the CPU {cause}, or "
            "the load of the machine changed; fix its clock (governor `performance`), let it cool, or measure the "
            "steady state (--sustained 60)"
        )
    return tuple(told)


def _count(executable: Path, device: QemuDevice, timeout_s: float, threads: int) -> Latency:
    """What one inference executes: exact, and the same each time."""
    executions = device.count_blocks(executable, timeout_s, threads)
    instructions = sum(times * len(block) for block, times in executions.items())
    arch = device.program.removeprefix("qemu-")
    cycles = None if device.core is None else model_cycles(executions, arch, device.core, device.cache_folder)
    return Latency(
        "emulated",
        device.uri,
        1,
        instructions=instructions,
        cycles=cycles.count if cycles else None,
        cycle_model=cycles.model if cycles else None,
        warnings=(f"counted on one thread, of {threads} that the program may use",) if threads > 1 else (),
    )


def _read_times(stdout: str, name: str) -> tuple[float, ...]:
    try:
        times_ns = json.loads(stdout)["times_ns"]
        times_s = tuple(float(time_ns) * 1e-9 for time_ns in times_ns)
    except (ValueError, KeyError, TypeError):
        raise ProgramError(f"{name} --bench printed no times: {stdout[:200]!r}") from None
    if not times_s or not all(0 < time_s < math.inf for time_s in times_s):
        raise ProgramError(f"{name} --bench printed times that cannot be: {stdout[:200]!r}")
    return times_s
