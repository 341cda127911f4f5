"""MDENAS: one multinomial distribution per head, moved by ranks (Zheng et al., ICCV 2019, arXiv 1905.07529)."""

from typing import ClassVar

import numpy as np

from haqnas.search.agents import drawn, uniform
from haqnas.search.critic import Action, Vector
from haqnas.search.strategy import Strategy, Task, Trial


class MDENAS(Strategy):
    """An option tried less than another and yet better gains probability; tried more and yet worse it loses.

    The paper's accuracy of an option is that of the network trained last with it; here the reward of the latest trial
    with it. A failure counts as worse than all.
    """

    rate: ClassVar[float] = 0.01
    least: ClassVar[float] = 1e-3  # probability of any option

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.policies = uniform(task.heads)
        self.times = tuple(np.zeros(count) for count in task.heads.counts)
        self.latest = tuple(np.full(count, -np.inf) for count in task.heads.counts)

    def propose(self) -> Action | None:
        return drawn(self.policies, self.rng)

    def learn(self, trial: Trial) -> None:
        for times, latest, option in zip(self.times, self.latest, trial.action, strict=True):
            times[option] += 1
            latest[option] = -np.inf if trial.score is None else trial.score
        self.policies = tuple(map(self._moved, self.policies, self.times, self.latest))

    def _moved(self, policy: Vector, times: Vector, latest: Vector) -> Vector:
        less = times[:, None] < times[None, :]
        better = latest[:, None] > latest[None, :]
        gained = (less & better).sum(1) - (less & better).sum(0)
        weights = np.maximum(policy + self.rate * gained, self.least)
        moved: Vector = weights / weights.sum()
        return moved
