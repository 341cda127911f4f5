"""Time several runners turn by turn, A B C A B C, so that a slow minute of the machine hits all of them."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.contenders import Runner, Turn

_PAUSE_S = 0.02  # thread pools of the one before may still spin
_FIRST_RUNS = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long everybody is timed."""

    rounds: int
    turn_s: float  # of one runner in one round
    min_runs: int = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """One runner: a median per round, and the spread of single runs."""

    median_s: float  # of the rounds' medians
    round_medians_s: tuple[float, ...]
    p10_s: float  # of all single runs
    p90_s: float
    runs: int
    preemptions_per_s: float  # how often others took the CPU: few on a quiet machine

    @property
    def spread(self) -> float:
        """(Greatest - least of the middle half of rounds) / median: what another run of the benchmark may show."""
        low, _, high = statistics.quantiles(self.round_medians_s, n=4, method="inclusive")
        return (high - low) / self.median_s


def interleave(runners: Sequence[Runner], schedule: Schedule) -> dict[str, Timing]:
    """Give each runner its turn in each round; every second round in the opposite order."""
    counts = {runner.name: _runs_of_a_turn(runner, schedule) for runner in runners}
    turns: dict[str, list[Turn]] = {runner.name: [] for runner in runners}
    for index in range(schedule.rounds):
        for runner in runners if index % 2 == 0 else reversed(runners):
            time.sleep(_PAUSE_S)
            turns[runner.name].append(runner.turn(counts[runner.name]))
    return {name: _summarise(rounds) for name, rounds in turns.items()}


def _runs_of_a_turn(runner: Runner, schedule: Schedule) -> int:
    typical_s = statistics.median(runner.turn(_FIRST_RUNS).times_ns) * 1e-9
    return max(schedule.min_runs, round(schedule.turn_s / max(typical_s, 1e-6)))


def _summarise(rounds: Sequence[Turn]) -> Timing:
    medians_s = tuple(statistics.median(turn.times_ns) * 1e-9 for turn in rounds)
    ordered = sorted(time_ns for turn in rounds for time_ns in turn.times_ns)
    low, high = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e-9 for share in (0.1, 0.9))
    preemptions_per_s = sum(turn.preemptions for turn in rounds) / (sum(ordered) * 1e-9)
    return Timing(statistics.median(medians_s), medians_s, low, high, len(ordered), preemptions_per_s)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of another / ours, from the rounds that both ran beside each other."""

    median: float
    low: float  # quartiles over the rounds
    high: float


def ratio(other: Timing, ours: Timing) -> Ratio:
    pairs = [a / b for a, b in zip(other.round_medians_s, ours.round_medians_s, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Ratio(middle, low, high)


def best_peer(timings: Mapping[str, Timing], ours: str) -> str:
    """The fastest of all but `ours`."""
    return min((name for name in timings if name != ours), key=lambda name: timings[name].median_s)
