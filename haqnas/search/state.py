"""How far a search is: what a caller may show while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial so far: shares, and each agent's credit in units of the score."""

    accuracy: float
    drop: float
    latency_share: float | None  # of uniform int8, predicted; None: nobody asked
    credit: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SearchState:
    """Trials of one strategy, `num_done` of `num_trials`; `left_s` is what they will still take, at most."""

    strategy: str
    num_done: int
    num_failed: int
    num_trials: int
    left_s: float | None  # None: nothing was done yet
    best: Best | None

    def describe(self) -> str:
        """One line of it."""
        return f"{self.strategy}: trial {self.num_done} of {self.num_trials}, {self._best()}{self._left()}"

    def _best(self) -> str:
        best = self.best
        if best is None:
            return "none succeeded yet"
        agent = max(best.credit, key=lambda name: abs(best.credit[name]), default=None)
        by = "" if agent is None else f" (most by {agent}: {best.credit[agent]:+.3g})"
        at = "" if best.latency_share is None else f" at {best.latency_share:.1%} of the latency"
        return f"best drop {best.drop:.2%}{at}{by}"

    def _left(self) -> str:
        return "" if self.left_s is None else f", about {self.left_s:.0f} s left"


class Tell(Protocol):
    """Takes a line on what happens, and where it is of a search, how far that is."""

    def __call__(self, text: str, state: SearchState | None = None) -> None: ...
