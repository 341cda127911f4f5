"""What HAQ's replay holds, and when it is learnt from."""

import itertools

import numpy as np
import pytest

from haqnas.search.critic import Head, Heads
from haqnas.search.strategies.haq import HAQ, replayed
from haqnas.search.strategy import Task, Trial

HEADS = Heads(tuple(Head(name, "QUANT", 3) for name in ("first", "second", "third")), ())


def price(action):
    return sum(action) / 4


class Dearest:
    """An actor that always wants the most."""

    def __init__(self):
        self.updates = []

    def act(self, observation):
        return 1.0

    def update(self, steps):
        self.updates.append(steps)


def made(num_trials=20):
    strategy = HAQ(Task(HEADS, price, num_trials), np.random.default_rng(0))
    strategy.agent = Dearest()
    strategy.deviation = 1e-9
    return strategy


def test_the_replay_holds_what_was_evaluated_not_what_the_actor_chose():
    strategy = made()
    strategy.tell(Trial((0, 0, 0), 0.0))  # the warm-up is over
    assert strategy.ask() == (2, 1, 1)  # (2, 2, 2), which is 6 / 4, one step down from the last head on
    strategy.tell(Trial((2, 1, 1), 1.0))
    assert strategy.replay[-1].positions == pytest.approx([2.5 / 3, 0.5, 0.5])
    assert strategy.replay[-1].observations[:, -2] == pytest.approx([0, 2.5 / 3, 0.5])  # the actions before
    assert strategy.replay[-1].observations[:, -1] == pytest.approx([1, 0.5, 0.25])  # the budget that is left


def test_nothing_leaks_from_one_episode_into_the_next():
    strategy = made()
    for action in ((0, 1, 2), (2, 1, 0), (0, 1, 2)):
        strategy.tell(Trial(action, 0.0))
    assert (strategy.replay[0].observations == strategy.replay[2].observations).all()


def test_each_step_has_the_reward_of_its_episode_and_failures_are_below_the_worst():
    strategy = made()
    for action, reward in (((0, 1, 2), 1.0), ((2, 1, 0), None), ((1, 1, 1), 3.0)):
        strategy.tell(Trial(action, reward))
    returns = replayed(strategy.replay).returns.reshape(3, 3)
    assert (returns == returns[:, :1]).all()
    assert returns[1, 0] < returns[0, 0] < returns[2, 0]
    assert [returns.mean(), returns.std()] == pytest.approx([0, 1])


def test_warm_up_is_a_share_of_the_trials_and_every_step_has_an_update_after_it():
    strategy = made(num_trials=60)
    for action in ((0, 0, 0), (0, 0, 1)):
        strategy.tell(Trial(action, 1.0))
    assert strategy.agent.updates == []
    strategy.tell(Trial((0, 1, 0), 1.0))
    assert len(strategy.agent.updates) == len(HEADS.heads)
    assert strategy.agent.updates[0].observations.shape == (strategy.settings.batch_size, 6)


def test_prices_that_are_no_number_are_over_budget_and_no_crash():
    def patchy(action):
        return {2: float("nan"), 5: float("inf")}.get(sum(action), price(action))

    strategy = HAQ(Task(HEADS, patchy, 6), np.random.default_rng(0))
    asked = []
    while (action := strategy.ask()) is not None:
        asked.append(action)
        strategy.tell(Trial(action, float(sum(action))))
    every = set(itertools.product(range(3), repeat=3))
    assert sorted(asked) == sorted(action for action in every if sum(action) in (0, 1, 3, 4))
