"""ProxylessNAS by REINFORCE."""

import numpy as np
import pytest

from haqnas.search.strategies.proxyless import Proxyless
from haqnas.search.strategy import Task, Trial
from tests.search.test_critic import EVERY, HEADS


def made():
    return Proxyless(Task(HEADS, lambda _: 1.0, 24), np.random.default_rng(0))


def test_options_that_are_rewarded_become_likelier_and_others_less_likely():
    strategy = made()
    strategy.tell(Trial((0, 0, 0), 0.0))  # the baseline
    before = strategy.policies
    assert [policy.tolist() for policy in before] == [pytest.approx([1 / n] * n) for n in HEADS.counts]
    strategy.tell(Trial((1, 1, 2), 1.0))
    better = strategy.policies
    assert all(new[o] > old[o] for old, new, o in zip(before, better, (1, 1, 2), strict=True))
    strategy.tell(Trial((2, 0, 3), -5.0))
    worse = strategy.policies
    assert all(new[o] < old[o] for old, new, o in zip(better, worse, (2, 0, 3), strict=True))
    strategy.tell(Trial((0, 0, 1), None))
    assert all(new[o] < old[o] for old, new, o in zip(worse, strategy.policies, (0, 0, 1), strict=True))


def test_the_policy_ends_at_the_best_option_of_the_head_that_matters():
    strategy = made()
    for _ in range(60):
        action = strategy.propose()
        strategy.tell(Trial(action, float(action[2] == 1)))
    assert strategy.policies[2].argmax() == 1
    assert strategy.policies[2][1] > 0.8


def test_equal_rewards_move_nothing():
    strategy = made()
    for action in EVERY[:10]:
        strategy.tell(Trial(action, 7.0))
    assert [policy.tolist() for policy in strategy.policies] == [
        pytest.approx([1 / count] * count) for count in HEADS.counts
    ]
