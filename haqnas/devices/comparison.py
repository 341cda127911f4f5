"""Which of two executables is faster on a device: they take turns, so that what disturbs one disturbs the other."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from haqnas.devices.device import Device
from haqnas.devices.latency import (
    FIRST_RUNS,
    Latency,
    Stopped,
    TimingPlan,
    measure_latency,
    next_runs,
    run_batch,
    to_latency,
)
from haqnas.devices.qemu import QemuDevice
from haqnas.devices.statistics import Ratio, compare_pairs, summarise

TURN_S = 0.1  # shorter than most changes of a machine's load
LEAST_ROUNDS = 10

Figure = Literal["time", "instructions", "predicted time", "predicted instructions"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`first` against `second` on one device: `ratio` is first / second of `figure`, below 1 where first is better.

    Counts and predictions do not vary, so they have no interval: low and high are the ratio, `p_value` is None.
    """

    first: Latency
    second: Latency
    figure: Figure
    ratio: float
    low: float
    high: float
    rounds: int
    p_value: float | None = None  # of the Wilcoxon signed-rank test that both are equal
    stopped: Stopped | None = None

    def to_document(self) -> dict[str, Any]:
        """For JSON: fields that are known, and the verdict."""
        own = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in {"first", "second"}
        }
        known = {name: value for name, value in own.items() if value is not None}
        both = {"first": self.first.to_document(), "second": self.second.to_document()}
        return {**both, **known, "verdict": self.verdict}

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.low <= 1.0 <= self.high and self.low < self.high:
            return f"no difference beyond noise ({_percent(self.low)} to {_percent(self.high)} %)"
        if self.ratio == 1.0:
            return f"equal {self.figure}{self._cycles()}"
        better, worse = ("faster", "slower") if self.figure.endswith("time") else ("fewer", "more")
        change = f"{better if self.ratio < 1 else worse} by {abs(1 - self.ratio):.1%}"
        if self.figure != "time":
            return f"{self.figure}: {change}{self._cycles()}"
        ends = sorted(abs(1 - end) * 100 for end in (self.low, self.high))
        return f"{change} ({ends[0]:.1f} to {ends[1]:.1f})"

    @property
    def cycles_ratio(self) -> float | None:
        """First / second of modelled cycles, where both have them of one model.

        It often disagrees with instructions, as those of one kind wait for one pipe of the core.
        """
        one, other = self.first.cycles, self.second.cycles
        if not one or not other or self.first.cycle_model != self.second.cycle_model:
            return None
        return one / other

    def _cycles(self) -> str:
        ratio = self.cycles_ratio
        if ratio is None or ratio == 1.0:
            return ""
        return f"; modelled cycles: {'fewer' if ratio < 1 else 'more'} by {abs(1 - ratio):.1%}"


def compare_latency(
    first: Path,
    second: Path,
    device: Device,
    plan: TimingPlan,
    timeout_s: float,
    threads: tuple[int, int] = (1, 1),
    clock: Callable[[], float] = monotonic,
) -> Comparison:
    """Rounds of first, second, second, first until the interval of the ratio is as narrow as `plan` asks.

    `plan.runs` stands for so many rounds, at least LEAST_ROUNDS.
    Each round gives one pair, in which a steady change of the machine cancels. Raises DeviceError.
    """
    if isinstance(device, QemuDevice):
        one, other = (
            measure_latency(path, device, plan, timeout_s, number)
            for path, number in zip((first, second), threads, strict=True)
        )
        return _compare_counts(one, other)
    rounds = max(LEAST_ROUNDS, plan.runs or 0)
    deadline = clock() + plan.limit_s
    turns = (_Turns(first), _Turns(second))
    while True:
        for index in (0, 1, 1, 0):
            turns[index].take(device, plan, timeout_s)
        if len(turns[0].medians) < 2 * rounds:
            continue
        ratio = compare_pairs(turns[1].pairs(), turns[0].pairs())
        stopped = _stopped(ratio, plan, clock() >= deadline)
        if stopped is not None:
            found = _compare_times(turns, ratio, device, plan, stopped)
            return replace(found, first=replace(found.first, fingerprint=device.fingerprint()))


def _stopped(ratio: Ratio, plan: TimingPlan, is_late: bool) -> Stopped | None:
    if plan.runs is not None:
        return "runs"
    if (ratio.interval.high - ratio.interval.low) / 2 <= plan.precision:
        return "precision"
    return "time" if is_late else None


def _compare_times(
    turns: "tuple[_Turns, _Turns]", ratio: Ratio, device: Device, plan: TimingPlan, stopped: Stopped
) -> Comparison:
    first, second = (to_latency(summarise(turn.samples), device.uri, plan.caches, stopped) for turn in turns)
    return Comparison(
        first,
        second,
        "time",
        ratio=ratio.ratio,
        low=ratio.interval.low,
        high=ratio.interval.high,
        rounds=ratio.pairs,
        p_value=ratio.p_value,
        stopped=stopped,
    )


class _Turns:
    """What one of the two has shown so far."""

    def __init__(self, executable: Path) -> None:
        self.executable = executable
        self.samples: list[float] = []
        self.medians: list[float] = []
        self._runs = FIRST_RUNS

    def take(self, device: Device, plan: TimingPlan, timeout_s: float) -> None:
        times_s = run_batch(self.executable, device, self._runs, 1.0, plan.caches, timeout_s)
        self.samples += times_s
        self.medians.append(summarise(times_s).median)
        self._runs = next_runs(self.medians[-1], TURN_S)

    def pairs(self) -> list[float]:
        """Per round, the geometric mean of its two turns."""
        return [math.sqrt(a * b) for a, b in zip(self.medians[::2], self.medians[1::2], strict=True)]


def _compare_counts(first: Latency, second: Latency) -> Comparison:
    """By instructions: they are counted, and searches save them; cycles are a model that no board has confirmed."""
    ratio = (
        (first.instructions or 0) / second.instructions if second.instructions else 1.0
    )  # nothing: not told apart
    return Comparison(first, second, "instructions", ratio, ratio, ratio, 1)


def compare_predictions(first: Latency, second: Latency) -> Comparison:
    """By what one table predicts of both."""
    if first.median_s is not None and second.median_s is not None:
        ratio = first.median_s / second.median_s
        return Comparison(first, second, "predicted time", ratio, ratio, ratio, 0)
    ratio = (first.instructions or 0) / (second.instructions or 1)
    return Comparison(first, second, "predicted instructions", ratio, ratio, ratio, 0)


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f}"
