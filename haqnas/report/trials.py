"""Trials as a report shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One evaluation of a search. `score` is None where it failed; `reason` says why it was tried, or what failed."""

    number: int
    strategy: str
    fidelity: str
    score: float | None  # higher is better
    latency: float  # predicted, in the unit of the search
    choices: Mapping[str, str]  # by knob
    credit: Mapping[str, float]  # by agent; empty where no credit was given
    reason: str


def best_so_far(trials: Sequence[TrialRow]) -> tuple[float | None, ...]:
    """After each trial, the best score yet; None before the first success."""
    best: float | None = None
    found = []
    for trial in trials:
        if trial.score is not None and (best is None or trial.score > best):
            best = trial.score
        found.append(best)
    return tuple(found)


def pareto_front(trials: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    """Those that no other trial beats in score and latency at once, by rising latency."""
    front: list[TrialRow] = []
    scored = [trial for trial in trials if trial.score is not None]
    for trial in sorted(scored, key=lambda one: (one.latency, -(one.score or 0.0))):
        if not front or (trial.score or 0.0) > (front[-1].score or 0.0):
            front.append(trial)
    return tuple(front)
