"""The strategy on problems whose answers are known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haqnas.search.critic import Critic, Head, Heads
from haqnas.search.marl import Settings, State, Trial, critic_of, projected, propose
from tests.search.test_critic import EVERY, HEADS, made_up

MANY = Heads(
    tuple(Head(f"bits{index}", "QUANT", 3) for index in range(8)), tuple((k, k + 1) for k in range(7))
)


def price_of(counts, limit, rng):
    """Additive costs over `limit` of the dearest; options in order of cost."""
    costs = [np.sort(rng.uniform(0.1, 1, count)) for count in counts]
    most = sum(cost[-1] for cost in costs)
    return lambda action: sum(cost[option] for cost, option in zip(costs, action, strict=True)) / most / limit


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


def play(heads, reward, price, count, settings_, seed):
    state = State.begin(heads)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        proposal = propose(heads, state, count, price, settings_, rng)
        if proposal.action is None:
            break
        state = replace(state, targets=proposal.targets).told(Trial(proposal.action, reward(proposal.action)))
    return state


def problem(seed):
    rng = np.random.default_rng(seed)
    truth = MANY.split(rng.normal(size=MANY.num_features))
    price = price_of(MANY.counts, 0.6, rng)
    allowed = [action for action in itertools.product(range(3), repeat=8) if price(action) <= 1]
    best = max(map(truth.value, allowed))
    return truth.value, price, allowed, best


def test_it_finds_what_random_search_does_not():
    regrets, random_regrets = [], []
    for seed in range(5):
        reward, price, allowed, best = problem(seed)
        state = play(MANY, reward, price, 60, Settings(), seed)
        regrets.append(best - max(trial.reward for trial in state.trials))
        chosen = np.random.default_rng(seed).choice(len(allowed), 60, replace=False)
        random_regrets.append(best - max(reward(allowed[index]) for index in chosen))
    assert np.mean(regrets) < 0.25 * np.mean(random_regrets)


def test_every_trial_is_new_and_within_budget_and_the_same_again():
    reward, price, _, _ = problem(1)
    state = play(MANY, reward, price, 40, Settings(), 7)
    actions = [trial.action for trial in state.trials]
    assert len(set(actions)) == len(actions) == 40
    assert all(price(action) <= 1 for action in actions)
    assert play(MANY, reward, price, 40, Settings(), 7).trials == state.trials


def test_a_space_that_is_used_up_ends():
    state = play(HEADS, lambda _: 1.0, lambda _: 0.5, 100, Settings(tries=20), 0)
    assert len(state.trials) == len(EVERY)


def test_a_budget_nobody_can_meet_proposes_nothing():
    assert play(HEADS, lambda _: 1.0, lambda _: 2.0, 10, Settings(tries=5), 0).trials == ()


def test_failures_are_learnt_from_and_do_not_hide_the_rest():
    good = [Trial(action, float(action[0])) for action in EVERY if action[2] != 3]
    failed = [Trial(action, None) for action in EVERY if action[2] == 3]
    critic = critic_of(HEADS, good + failed, Settings().prior).mean()
    assert critic.value((2, 0, 3)) < critic.value((0, 0, 0)) < critic.value((2, 0, 0))


@pytest.mark.parametrize("rewards", [(None,) * 24, (1.0,) * 24])
def test_trials_that_say_nothing_are_no_crash(rewards):
    trials = [Trial(action, reward) for action, reward in zip(EVERY, rewards, strict=True)]
    critic = critic_of(HEADS, trials, Settings().prior)
    assert isinstance(critic, Critic)
    assert np.isfinite([critic.mean().value(action) for action in EVERY]).all()
