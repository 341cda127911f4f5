"""Ablation of `marl`: one module after the other, as pipelines are tuned by hand, instead of all at once."""

import math
from dataclasses import dataclass

import numpy as np

from haqnas.search.critic import Action, Heads
from haqnas.search.strategies.marl import Marl
from haqnas.search.strategy import Task, Trial
from haqnas.search.wall import ladders_of, walled

ORDER = ("ARCH", "QUANT", "HPO", "AUG")


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's heads, and what the others stay at."""

    mine: tuple[int, ...]
    kept: Action

    def whole(self, part: Action) -> Action:
        """The options of this agent's heads with what is kept of the others."""
        options = dict(zip(self.mine, part, strict=True))
        return tuple(options.get(head, option) for head, option in enumerate(self.kept))

    def part(self, action: Action) -> Action:
        """The options of this agent's heads."""
        return tuple(action[head] for head in self.mine)

    def has(self, action: Action) -> bool:
        """Whether the other agents' heads are where they stay."""
        return self.whole(self.part(action)) == action

    def task(self, whole: Task, num_trials: int) -> Task:
        """The search of this agent's heads alone."""
        places = {head: place for place, head in enumerate(self.mine)}
        pairs = [(places[a], places[b]) for a, b in whole.heads.pairs if a in places and b in places]
        heads = Heads(tuple(whole.heads.heads[head] for head in self.mine), tuple(pairs))
        return Task(heads, lambda part: whole.price(self.whole(part)), num_trials)


class Sequential(Marl):
    """Each agent has an equal share of the trials, in which `marl` moves its heads alone.

    Heads of earlier agents stay at the best found, those of later ones at option 0. Where that leaves the first agent
    nothing within budget, later heads step down HAQ's wall. An agent whose actions are used up ends early.
    """

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.agents = ordered_agents(task.heads)
        self.index = 0  # of the agent whose turn it is
        if self.agents:
            self._begin(first_kept(task, heads_of(task.heads, self.agents[0]), rng))

    def propose(self) -> Action | None:
        while self.index < len(self.agents):
            is_last = self.index + 1 == len(self.agents)
            is_over = len(self.trials) >= math.ceil(self._share() * (self.index + 1))
            part = None if is_over and not is_last else self.inner.ask()
            if part is not None:
                return self.turn.whole(part)
            self.index += 1
            if not is_last:
                self._begin(self._best())
        return None if self.agents else ()

    def learn(self, trial: Trial) -> None:
        super().learn(trial)
        if self.agents and self.turn.has(trial.action):
            self.inner.tell(Trial(self.turn.part(trial.action), trial.reward))

    def _share(self) -> float:
        return self.task.num_trials / len(self.agents)

    def _best(self) -> Action:
        """The best action so far; what was kept before where all have failed."""
        found = [(score, trial.action) for trial in self.trials if (score := trial.score) is not None]
        return max(found)[1] if found else self.turn.kept

    def _begin(self, kept: Action) -> None:
        """Hand over to the agent whose turn it is, and tell it the trials in which only its heads differ."""
        self.turn = turn = Turn(heads_of(self.task.heads, self.agents[self.index]), kept)
        self.inner = Marl(turn.task(self.task, round(self._share())), self.rng)
        self.inner.seen = frozenset(turn.part(action) for action in self.seen if turn.has(action))
        for trial in filter(lambda trial: turn.has(trial.action), self.trials):
            self.inner.tell(Trial(turn.part(trial.action), trial.reward))


def ordered_agents(heads: Heads) -> tuple[str, ...]:
    """Those of ORDER, then others as they come."""
    present = dict.fromkeys(head.agent for head in heads.heads)
    return (*(agent for agent in ORDER if agent in present), *(a for a in present if a not in ORDER))


def heads_of(heads: Heads, agent: str) -> tuple[int, ...]:
    """By index."""
    return tuple(index for index, head in enumerate(heads.heads) if head.agent == agent)


def first_kept(task: Task, mine: tuple[int, ...], rng: np.random.Generator) -> Action:
    """Option 0 of the heads that are not `mine`; less where nothing is within budget so, with mine at the cheapest."""
    options = (0,) * len(task.heads.heads)
    if len(mine) == len(options):
        return options
    ladders = ladders_of(task.heads, task.price, rng)
    cheapest = tuple(ladders[head][0] if head in mine else 0 for head in range(len(options)))
    return walled(ladders, cheapest, task.price) or options
