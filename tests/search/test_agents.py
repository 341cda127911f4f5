"""Policies and credits: what the update must never do, and what credits must add up to."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haqnas.search.agents import (
    counterfactual_credit,
    drawn,
    improved,
    mixed,
    objective,
    shapley_credit,
    uniform,
)
from tests.search.test_critic import EVERY, HEADS, made_up, policies_of

SEEDS = st.integers(0, 10**6)


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.floats(0.01, 5.0), st.integers(1, 4))
def test_the_regularised_objective_never_falls(seed, omega, sweeps):
    rng = np.random.default_rng(seed)
    critic, targets = made_up(rng), policies_of(rng)
    before = targets
    for count in range(1, sweeps + 1):
        after = improved(critic, targets, omega, sweeps=count)
        assert objective(critic, after, targets, omega) >= objective(critic, before, targets, omega) - 1e-9
        before = after
    # Targets that are the policies before: then the expected reward alone does not fall either.
    assert critic.expected(improved(critic, targets, omega)) >= critic.expected(targets) - 1e-9


def test_a_large_omega_keeps_policies_and_a_small_one_is_greedy():
    rng = np.random.default_rng(3)
    critic, targets = made_up(rng), policies_of(rng)
    for kept, target in zip(improved(critic, targets, 1e9), targets, strict=True):
        assert kept == pytest.approx(target)
    greedy = improved(critic, uniform(HEADS), 1e-3, sweeps=20)
    action = tuple(int(policy.argmax()) for policy in greedy)
    one_change = [other for other in EVERY if sum(a != b for a, b in zip(other, action, strict=True)) == 1]
    assert all(critic.value(other) <= critic.value(action) for other in one_change)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_counterfactual_credit_has_no_mean_under_the_policy(seed):
    rng = np.random.default_rng(seed)
    critic, policies = made_up(rng), policies_of(rng)
    action = drawn(policies, rng)
    for head, policy in enumerate(policies):
        others = [(*action[:head], option, *action[head + 1 :]) for option in range(len(policy))]
        credits = [counterfactual_credit(critic, policies, other)[head] for other in others]
        assert policy @ np.array(credits) == pytest.approx(0, abs=1e-9)
        difference = critic.value(others[0]) - critic.value(others[1])
        assert credits[0] - credits[1] == pytest.approx(difference)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_shapley_values_add_up_to_what_the_action_gained(seed):
    rng = np.random.default_rng(seed)
    critic, policies = made_up(rng), policies_of(rng)
    action = drawn(policies, rng)
    credit = shapley_credit(critic, policies, action, HEADS)
    assert set(credit) == {"QUANT", "ARCH"}
    assert sum(credit.values()) == pytest.approx(critic.value(action) - critic.expected(policies))


def test_an_agent_that_chooses_as_its_policy_would_gets_no_credit():
    rng = np.random.default_rng(4)
    critic = made_up(rng)
    action = (1, 0, 2)
    certain = tuple(np.eye(count)[option] for count, option in zip(HEADS.counts, action, strict=True))
    policies = (*certain[:2], np.full(4, 0.25))
    credit = shapley_credit(critic, policies, action, HEADS)
    assert credit["QUANT"] == pytest.approx(0)
    assert credit["ARCH"] == pytest.approx(critic.value(action) - critic.expected(policies))


def test_actions_are_drawn_as_often_as_the_policies_say():
    rng = np.random.default_rng(5)
    policies = mixed((np.array([1.0, 0.0, 0.0]), np.array([0.2, 0.8]), np.full(4, 0.25)), 0.3)
    actions = np.array([drawn(policies, rng) for _ in range(4000)])
    for head, policy in enumerate(policies):
        shares = np.bincount(actions[:, head], minlength=len(policy)) / len(actions)
        assert shares == pytest.approx(policy, abs=0.04)
    assert set(itertools.chain(*actions[:, :1].tolist())) == {0, 1, 2}
