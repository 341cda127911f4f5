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

    The other heads stay at the best found before its turn: those of earlier agents at what these found, those of later
    ones at what the task's first actions say, or without any at option 0. Where that leaves the first agent nothing
    within budget, they step down HAQ's wall. An agent whose actions are used up ends early.
    """

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.agents = ordered_agents(task.heads)
        self.index = 0  # of the agent whose turn it is
        self.turn: Turn | None = None
        self.inner: Marl  # of the turn

    def propose(self) -> Action | None:
        while self.index < len(self.agents):
            turn = self.turn or self._begin()
            is_last = self.index + 1 == len(self.agents)
            is_over = len(self.trials) >= math.ceil(self._share() * (self.index + 1))
            part = None if is_over and not is_last else self.inner.ask()
            if part is not None:
                return turn.whole(part)
            self.index += 1
            self.turn = None
        return None if self.agents else ()

    def learn(self, trial: Trial) -> None:
        super().learn(trial)
        if self.turn is not None and self.turn.has(trial.action):
            self.inner.tell(Trial(self.turn.part(trial.action), trial.reward))

    def _share(self) -> float:
        return self.task.num_trials / len(self.agents)

    def _begin(self) -> Turn:
        """The turn of the next agent, which is told the trials in which only its heads differ."""
        mine = heads_of(self.task.heads, self.agents[self.index])
        found = [(score, trial.action) for trial in self.trials if (score := trial.score) is not None]
        kept = max(found)[1] if found else first_kept(self.task, mine, self.rng)
        self.turn = turn = Turn(mine, kept)
        self.inner = Marl(turn.task(self.task, round(self._share())), self.rng)
        self.inner.seen = frozenset(turn.part(action) for action in self.seen if turn.has(action))
        for trial in filter(lambda trial: turn.has(trial.action), self.trials):
            self.inner.tell(Trial(turn.part(trial.action), trial.reward))
        return turn


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
