"""The parts of the default strategy; the strategy itself is in test_strategies.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haqnas.search.critic import Critic
from haqnas.search.marl import Settings, critic_of, projected, sampled_marginals, stretched
from haqnas.search.strategies.marl import HAQWall, Marl
from haqnas.search.strategy import Task, Trial
from tests.search.problems import price_of
from tests.search.test_critic import EVERY, HEADS, made_up


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.4, 1.1))
def test_projected_actions_are_within_budget_and_stay_where_they_are(seed, limit):
    rng = np.random.default_rng(seed)
    critic, price = made_up(rng), price_of(HEADS.counts, limit, rng)
    reachable = price((0, 0, 0)) <= 1
    for action in EVERY:
        found = projected(critic, HEADS, action, price)
        if not reachable:
            assert found is None
            continue
        assert found is not None
        assert price(found) <= 1
        assert projected(critic, HEADS, found, price) == found
        if price(action) <= 1:
            assert found == action


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_failures_are_learnt_from_and_do_not_hide_the_rest(bad):
    good = [Trial(action, float(action[0])) for action in EVERY if action[2] != 3]
    failed = [Trial(action, bad) for action in EVERY if action[2] == 3]
    critic = critic_of(HEADS, good + failed, Settings().prior).mean()
    assert critic.value((2, 0, 3)) < critic.value((0, 0, 0)) < critic.value((2, 0, 0))


@pytest.mark.parametrize("rewards", [(None,) * 24, (1.0,) * 24])
def test_trials_that_say_nothing_are_no_crash(rewards):
    trials = [Trial(action, reward) for action, reward in zip(EVERY, rewards, strict=True)]
    for told in (trials, stretched(trials)):
        critic = critic_of(HEADS, told, Settings().prior)
        assert isinstance(critic, Critic)
        assert np.isfinite([critic.mean().value(action) for action in EVERY]).all()


def test_stretched_rewards_keep_their_order_and_tell_the_best_apart():
    scores = [10.0, 80.0, 90.0, 90.9, None, 91.0, 91.0]
    trials = [Trial((index, 0, 0), score) for index, score in enumerate(scores)]
    found = stretched(trials)
    assert [trial.action for trial in found] == [trial.action for trial in trials]
    rewards = [trial.score for trial in found]
    assert rewards[4] < rewards[0] < rewards[1] < rewards[2] < rewards[3] < rewards[5] == rewards[6]
    assert rewards[5] - rewards[2] > rewards[1] - rewards[0]


def test_without_credit_an_option_is_worth_what_its_trials_got():
    rng = np.random.default_rng(6)
    # Head 0 earns everything; head 1 is always chosen with it, and takes the reward for its own.
    trials = [Trial((option, min(option, 1), 0), float(option)) for option in (0, 2)] * 200
    found = sampled_marginals(HEADS, trials, rng)
    assert found.unary[0][2] - found.unary[0][0] == pytest.approx(2, abs=0.3)
    assert found.unary[1][1] - found.unary[1][0] == pytest.approx(2, abs=0.3)


def test_with_haqs_wall_actions_are_brought_within_budget_in_its_order():
    def price(action):
        return sum(action) / 2

    task, rng = Task(HEADS, price, 24), np.random.default_rng(0)
    critic = HEADS.split(np.zeros(HEADS.num_features))
    critic.unary[2][:] = 100 * np.arange(4)  # the last head loses the most
    by_loss, by_order = (kind(task, rng)._projected(critic, (2, 1, 3)) for kind in (Marl, HAQWall))
    assert by_loss == (0, 0, 2)
    assert by_order == (1, 0, 1)
