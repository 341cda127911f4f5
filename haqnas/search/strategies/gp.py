"""Bayesian optimization: a Gaussian process of the rewards, and the allowed action of most expected improvement."""

from typing import ClassVar

import numpy as np

from haqnas.search.actions import neighbours, random_action, random_allowed
from haqnas.search.critic import Action
from haqnas.search.gaussian_process import Process
from haqnas.search.strategy import Strategy, Task, Trial

NUM_FIRST = 10  # random ones
NUM_RANDOM = 512  # actions whose improvement is looked at, beside the neighbours of the best
NUM_BEST = 5
NUM_CLIMBS = 3


class GP(Strategy):
    """The price is known before anything is evaluated, so improvement is sought among allowed actions only.

    Optuna's sampler models the price by a second process, and took longer to find less.
    """

    tries: ClassVar[int] = 1  # it looks for new actions itself

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.trials: tuple[Trial, ...] = ()
        self.process = Process.prior(task.heads)

    def propose(self) -> Action | None:
        heads = self.task.heads
        if len(self.trials) < NUM_FIRST:
            return random_allowed(heads, self.is_allowed, self.rng)
        self.process, posterior = self.process.after(self.trials)
        starts = list(filter(self.is_allowed, posterior.ranked(self._pool())))[:NUM_CLIMBS]
        climbed = [posterior.climbed(heads, start, self.is_allowed) for start in starts]
        return posterior.ranked(climbed)[0] if climbed else None

    def learn(self, trial: Trial) -> None:
        self.trials = (*self.trials, trial)

    def _pool(self) -> list[Action]:
        """What differs from the best trials in one choice, and random actions."""
        heads = self.task.heads
        best = sorted(self.trials, key=lambda trial: -np.inf if trial.score is None else trial.score)
        near = (other for trial in best[-NUM_BEST:] for other in neighbours(heads, trial.action))
        far = (random_action(heads, self.rng) for _ in range(NUM_RANDOM))
        return list(dict.fromkeys((*near, *far)))
