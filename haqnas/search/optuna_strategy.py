"""Samplers of Optuna as strategies, through its ask and tell."""

import math
from abc import abstractmethod

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from haqnas.search.critic import Action
from haqnas.search.marl import with_failures
from haqnas.search.storage import quietly
from haqnas.search.strategy import Strategy, Task, Trial

PRICE = "price"  # Optuna's name of our constraint: over budget above 0


class OptunaStrategy(Strategy):
    """One choice among categories for each head; the price is a constraint, which costs no evaluation.

    A proposal over budget is told as a trial that violates the constraint, one that was seen before is dropped. A
    failure counts as half a range below the worst, as for `marl`.
    """

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.study = quietly(
            lambda: optuna.create_study(
                direction="maximize", sampler=self.make_sampler(int(rng.integers(2**32)))
            )
        )
        self.choices: dict[str, BaseDistribution] = {
            str(index): CategoricalDistribution(range(count)) for index, count in enumerate(task.heads.counts)
        }
        self.open: dict[Action, optuna.Trial] = {}  # proposed, and neither told nor rejected
        self.scores: dict[Action, float | None] = {}

    @abstractmethod
    def make_sampler(self, seed: int) -> BaseSampler:
        """Optuna's sampler."""

    def propose(self) -> Action | None:
        trial = self.study.ask(self.choices)
        action = tuple(trial.params[name] for name in self.choices)
        if action in self.open:  # it is being evaluated
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.open[action] = trial
        return action

    def learn(self, trial: Trial) -> None:
        self.scores[trial.action] = trial.score
        value, excess = self._value(trial.action), self._excess(trial.action)
        asked = self.open.pop(trial.action, None)
        if asked is not None:
            self._tell(asked, value, excess)
        elif value is not None:  # of another run, or it stood in for a proposal that was not allowed
            params = dict(zip(self.choices, trial.action, strict=True))
            self.study.add_trial(
                optuna.create_trial(
                    params=params, distributions=self.choices, value=value, constraints={PRICE: excess}
                )
            )

    def reject(self, action: Action) -> None:
        excess = self._excess(action)
        if excess > 0:
            self._tell(self.open.pop(action), -excess, excess)  # samplers look at the constraint alone
        elif action in self.scores:  # told again, what is known would count twice
            self._tell(self.open.pop(action), None, excess)

    def _tell(self, trial: optuna.Trial, value: float | None, excess: float) -> None:
        if value is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_constraint(PRICE, excess)
            self.study.tell(trial, value)

    def _excess(self, action: Action) -> float:
        excess = self.task.price(action) - 1
        return excess if math.isfinite(excess) else 1.0  # twice the budget: Optuna takes numbers only

    def _value(self, action: Action) -> float | None:
        """The reward; None where it failed and nothing succeeded."""
        scores = list(self.scores.values())
        if all(score is None for score in scores):
            return None
        return with_failures([*scores, self.scores[action]])[-1]
