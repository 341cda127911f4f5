"""HAQ: one actor chooses for head after head, learnt by DDPG (Wang et al., CVPR 2019, arXiv 1811.08886)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from haqnas.search.critic import Action, Vector
from haqnas.search.ddpg import Agent, Settings, Steps, truncated_normal
from haqnas.search.marl import with_failures
from haqnas.search.strategy import Strategy, Task, Trial
from haqnas.search.wall import Ladders, ladders_of, stepped_down, walled

EPISODES = 600  # HAQ's; what it counts in episodes is scaled to the number of trials


@dataclass(frozen=True, slots=True)
class Episode:
    """An action that was evaluated: (heads, features) observations, and where each choice is on its ladder, 0 to 1."""

    observations: Vector
    positions: Vector
    score: float | None


class HAQ(Strategy):
    """A deterministic actor with noise, whose choices step down the budget wall; DDPG learns it from a replay.

    Each head is a step: its observation gives a number in [0, 1], that is a rung of the head's ladder of options from
    cheap to dear. HAQ observes layers by ten figures (index, channels, kernel, stride, feature map, weights, whether
    depth-wise, whether weights or activations, last action). A task has no layers, but heads and prices: observed are
    the head's index, how many options it has, what its first step down and its whole ladder save from the dearest
    action, the last action, and the budget that is left when all heads to come take their cheapest option.

    Its code's known errors are not repeated: the replay holds what was evaluated, not what was chosen before the wall;
    a step's value is the reward at the end (there every step adds it, so that values grow with the number of layers);
    nothing is carried from one episode to the next, no table is indexed by position, and the wall ends at the bottom
    of all ladders. The critic is fitted to returns, and the networks are smaller, as `haqnas.search.ddpg` says. Rewards
    are in standard deviations, as their unit is not known; a failure is half a range below the worst. Warm-up and decay
    of the noise are HAQ's for its 600 episodes, as shares of the trials.
    """

    tries: ClassVar[int] = 5  # the actor gives nearly the same again once the noise is small
    settings: ClassVar[Settings] = Settings()
    warm_up: ClassVar[float] = 20 / EPISODES  # share of trials at random
    deviation: ClassVar[float] = 0.5  # of the noise, at first
    decay: ClassVar[float] = 0.99  # of the noise, each episode of EPISODES
    num_replayed: ClassVar[int] = 128  # latest episodes

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.ladders = ladders_of(task.heads, task.price, rng)
        self.facts = facts_of(task, self.ladders)
        self.agent = Agent(self.facts.shape[1] + 2, self.settings, int(rng.integers(2**31)))
        self.replay: tuple[Episode, ...] = ()
        self.num_told = 0

    def propose(self) -> Action | None:
        num_warm = self._num_warm()
        share = (self.num_told - num_warm) / max(self.task.num_trials, 1)
        deviation = self.deviation * self.decay ** (EPISODES * min(share, 1.0))
        chosen: Action = ()
        position = 0.0
        for head, ladder in enumerate(self.ladders):
            if self.num_told < num_warm:
                wanted = self.rng.random()
            else:
                mean = self.agent.act(self._observed(head, chosen, position))
                wanted = truncated_normal(mean, deviation, self.rng)
            rung = min(int(wanted * len(ladder)), len(ladder) - 1)
            position = position_of(rung, ladder)
            chosen = (*chosen, ladder[rung])
        return walled(self.ladders, chosen, self.task.price)

    def learn(self, trial: Trial) -> None:
        self.replay = (*self.replay, self._episode(trial))[-self.num_replayed :]
        self.num_told += 1
        if self.num_told > self._num_warm() and self.ladders:
            steps = replayed(self.replay)
            for _ in self.ladders:  # an update for each step, as HAQ
                rows = self.rng.integers(len(steps.actions), size=self.settings.batch_size)
                batch = Steps(steps.observations[rows], steps.actions[rows], steps.returns[rows])
                self.agent.update(batch)

    def _num_warm(self) -> int:
        return math.ceil(self.warm_up * self.task.num_trials)

    def _observed(self, head: int, chosen: Action, position: float) -> Vector:
        cheapest = tuple(ladder[0] for ladder in self.ladders[head:])
        left = 1 - self.task.price((*chosen, *cheapest))
        return np.array([*self.facts[head], position, np.clip(np.nan_to_num(left, nan=-1.0), -1, 1)])

    def _episode(self, trial: Trial) -> Episode:
        action, positions, observations = trial.action, [0.0], []
        for head, ladder in enumerate(self.ladders):
            observations.append(self._observed(head, action[:head], positions[-1]))
            positions.append(position_of(ladder.index(action[head]), ladder))
        return Episode(np.array(observations), np.array(positions[1:]), trial.score)


def position_of(rung: int, ladder: Action) -> float:
    """The middle of what is rounded to this rung, of [0, 1]."""
    return (rung + 0.5) / len(ladder)


def facts_of(task: Task, ladders: Ladders) -> Vector:
    """(heads, 4): index, number of options, what one step down and what all steps save; each scaled to 0 to 1."""
    if not ladders:
        return np.zeros((0, 4))
    dearest = tuple(ladder[-1] for ladder in ladders)
    most = task.price(dearest)
    rows = []
    for head, ladder in enumerate(ladders):
        bottom = (*dearest[:head], ladder[0], *dearest[head + 1 :])
        step = most - task.price(stepped_down(ladders, dearest, head))
        rows.append((head, len(ladder), step, most - task.price(bottom)))
    facts = np.nan_to_num(
        np.array(rows, np.float64), nan=0.0, posinf=0.0, neginf=0.0
    )  # prices may be no number
    scaled: Vector = (facts - facts.min(0)) / np.maximum(np.ptp(facts, 0), 1e-9)
    return scaled


def replayed(episodes: Sequence[Episode]) -> Steps:
    """All steps of the episodes, with standardised rewards."""
    rewards = np.array(with_failures([episode.score for episode in episodes]))
    standardised = (rewards - rewards.mean()) / (rewards.std() + 1e-9)
    return Steps(
        np.concatenate([episode.observations for episode in episodes]),
        np.concatenate([episode.positions for episode in episodes]),
        np.repeat(standardised, [len(episode.positions) for episode in episodes]),
    )
