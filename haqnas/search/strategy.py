"""One interface for all strategies: ask for an action, evaluate it, tell how it did.

Another distribution adds a strategy by one file and an entry point of the group `haqnas.strategies`:

    [project.entry-points."haqnas.strategies"]
    annealing = "my_search.annealing:Annealing"

where `Annealing(task, rng)` is a `Strategy`. Ours are registered in the same way, in pyproject.toml.
"""

import importlib.metadata
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from haqnas.errors import ConfigurationError
from haqnas.extensions import known_extensions
from haqnas.search.actions import Price, nearest
from haqnas.search.critic import Action, Heads

GROUP = "haqnas.strategies"


@dataclass(frozen=True, slots=True)
class Trial:
    """What was evaluated, and how it did. A reward of None, NaN or infinity: the evaluation failed."""

    action: Action
    reward: float | None

    @property
    def score(self) -> float | None:
        """The reward; None where the evaluation failed."""
        return self.reward if self.reward is not None and math.isfinite(self.reward) else None


@dataclass(frozen=True, slots=True)
class Task:
    """What is searched: decisions, what an action costs, and how many evaluations there will be.

    `first` are actions that are worth to begin with, for strategies that declare a warm start. Without heads there is
    one action, `()`. Raises ConfigurationError for a head without options.
    """

    heads: Heads
    price: Price  # over budget above 1; cheap, and known before anything is evaluated
    num_trials: int
    first: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        empty = [head.name for head in self.heads.heads if head.count < 1]
        if empty:
            raise ConfigurationError(
                f"nothing can be chosen for {', '.join(empty)}: give each at least one option"
            )


class Strategy(ABC):
    """Asks for the evaluation of actions that are new and within budget, and learns from all that it is told.

    A strategy says how it proposes and learns; what every strategy has to keep to is kept here. All of them get the
    same help: only an action that is within budget and was neither asked for nor told before is ever evaluated, others
    cost no evaluation. Asking and telling the same in the same order gives the same actions for the same `rng`.
    """

    is_warm: ClassVar[bool] = (
        False  # whether it begins with the task's `first` actions, which count as all others do
    )
    tries: ClassVar[int] = 20  # proposals, until the nearest allowed action stands in for the last one

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        self.task = task
        self.rng = rng
        self.seen: frozenset[Action] = frozenset()  # asked for or told

    def ask(self) -> Action | None:
        """An action to evaluate. None: all that are within budget have been asked for, or none is.

        In spaces of more than `actions.LARGE` actions None says that many tries found none.
        """
        action = self._proposed()
        if action is not None:
            self.seen |= {action}
        return action

    def _proposed(self) -> Action | None:
        action = next(filter(self.is_allowed, self.task.first), None) if self.is_warm else None
        if action is not None:
            return action
        for _ in range(self.tries):
            action = self.propose()
            if action is None:
                break
            if self.is_allowed(action):
                return action
            self.reject(action)
        return nearest(self.task.heads, action, self.is_allowed, self.task.price, self.rng)

    def tell(self, trial: Trial) -> None:
        """How an action did. It need not have been asked for: trials of earlier runs and of other workers count too."""
        self.seen |= {trial.action}
        self.learn(trial)

    def is_allowed(self, action: Action) -> bool:
        """Whether the action is new and within budget."""
        return action not in self.seen and self.task.price(action) <= 1

    @abstractmethod
    def propose(self) -> Action | None:
        """Any action; one that is not allowed is rejected, and the next one asked for. None: no idea."""

    @abstractmethod
    def learn(self, trial: Trial) -> None:
        """From a trial, which may have failed."""

    def reject(self, action: Action) -> None:  # noqa: B027 most strategies learn nothing from it
        """Learn that `action` will not be evaluated: it is over budget, or was seen before."""


MakeStrategy: TypeAlias = Callable[[Task, np.random.Generator], Strategy]


def known_strategies() -> dict[str, importlib.metadata.EntryPoint]:
    """By name; raises ConfigurationError where two distributions claim one name."""
    return known_extensions(GROUP, "strategy")


def load_strategy(name: str) -> MakeStrategy:
    """What makes the strategy `name`; raises ConfigurationError for a name that is not known, or does not load."""
    known = known_strategies()
    if name not in known:
        raise ConfigurationError(
            f"unknown strategy {name!r}; known are {', '.join(sorted(known))} (docs/search.md)"
        )
    try:
        make: MakeStrategy = known[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the strategy {name!r}, {known[name].value}, cannot be loaded: {error}"
        ) from error
    return make
