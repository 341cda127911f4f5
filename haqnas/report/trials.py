"""Trials as a report shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One evaluation of a search. `score` is None where it failed; `reason` says how it stood, or what failed."""

    number: int
    strategy: str
    fidelity: str
    score: float | None  # higher is better
    latency: float  # predicted, in the unit of the search
    choices: Mapping[str, str]  # by knob
    reason: str
    study: str = ""  # its name

    @property
    def is_of_recipe(self) -> bool:
        """Whether a training was tried, rather than bits without one."""
        return self.fidelity == "short qat"


def read_trials(journal: Path) -> tuple[TrialRow, ...]:
    """Of all strategies that searched, for bits and for recipes; none where there is no journal."""
    if not journal.exists():
        return ()
    from haqnas.search.study import read_journal  # Optuna takes a second to import

    return tuple(
        TrialRow(
            number=stored.number,
            strategy=str(stored.facts.get("strategy", stored.study)),
            fidelity=str(stored.facts.get("fidelity", "")),
            score=stored.score,
            latency=float(stored.facts.get("latency", 0.0)),
            choices=stored.choices,
            reason=str(stored.facts.get("failure") or stored.facts.get("reason", "")),
            study=stored.study,
        )
        for stored in read_journal(journal)
    )


def by_strategy(trials: Sequence[TrialRow]) -> Mapping[str, Sequence[TrialRow]]:
    """In the order in which they were stored."""
    names = dict.fromkeys(trial.strategy for trial in trials)
    return {name: [trial for trial in trials if trial.strategy == name] for name in names}


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
