"""Ageing evolution: the oldest dies, not the worst (Real et al., AAAI 2019, arXiv 1802.01548)."""

from typing import ClassVar

import numpy as np

from haqnas.search.actions import random_action, random_allowed
from haqnas.search.critic import Action
from haqnas.search.strategy import Strategy, Task, Trial


class Evolution(Strategy):
    """One choice of the best of a few from the latest trials is changed."""

    population_size: ClassVar[int] = 30
    sample_size: ClassVar[int] = 10

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.population: tuple[tuple[Action, float], ...] = ()  # oldest first

    def propose(self) -> Action | None:
        if len(self.population) < self.population_size:
            return random_allowed(self.task.heads, self.is_allowed, self.rng)
        chosen = self.rng.choice(len(self.population), self.sample_size, replace=False)
        parent, _ = max((self.population[int(index)] for index in chosen), key=lambda member: member[1])
        if not parent:
            return parent
        head = int(self.rng.integers(len(parent)))
        option = random_action(self.task.heads, self.rng)[head]
        return (*parent[:head], option, *parent[head + 1 :])

    def learn(self, trial: Trial) -> None:
        score = -np.inf if trial.score is None else trial.score
        self.population = (*self.population, (trial.action, float(score)))[-self.population_size :]
