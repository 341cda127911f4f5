"""The factored critic: it recovers what rewards are made of, and its expectations are exact."""

import itertools

import numpy as np
import pytest

from haqnas.search.critic import Critic, Head, Heads, Prior

HEADS = Heads((Head("w", "QUANT", 3), Head("a", "QUANT", 2), Head("width", "ARCH", 4)), ((0, 1), (1, 2)))
EVERY = tuple(itertools.product(*(range(count) for count in HEADS.counts)))


def made_up(rng):
    """A function of the critic's own form."""
    return HEADS.split(rng.normal(size=HEADS.num_features))


def policies_of(rng):
    return tuple(rng.dirichlet(np.ones(count)) for count in HEADS.counts)


def test_features_are_one_bias_one_option_of_each_head_and_one_of_each_pair():
    assert HEADS.num_features == 1 + 3 + 2 + 4 + 6 + 8
    positions = HEADS.positions(EVERY)
    assert positions.shape == (24, 1 + 3 + 2)
    assert set(positions.ravel().tolist()) == set(range(HEADS.num_features))
    assert len({tuple(row) for row in positions.tolist()}) == len(EVERY)


def test_the_mean_recovers_a_function_of_its_form():
    rng = np.random.default_rng(0)
    truth = made_up(rng)
    rewards = [5 + 2 * truth.value(action) for action in EVERY]
    critic = Critic.fit(HEADS, Prior(noise=1e-6), EVERY, rewards)
    mean = critic.mean()
    found = [critic.centre + critic.scale * mean.value(action) for action in EVERY]
    assert found == pytest.approx(rewards, abs=1e-3)


def test_expectations_are_those_of_all_actions():
    rng = np.random.default_rng(1)
    function, policies = made_up(rng), policies_of(rng)

    def chance(action):
        return np.prod([policy[option] for policy, option in zip(policies, action, strict=True)])

    expected = sum(chance(action) * function.value(action) for action in EVERY)
    assert function.expected(policies) == pytest.approx(expected)
    for head, count in enumerate(HEADS.counts):
        conditional = np.zeros(count)
        for action in EVERY:
            conditional[action[head]] += (
                chance(action) / policies[head][action[head]] * function.value(action)
            )
        given = function.of_head(head, policies)
        assert given - given.mean() == pytest.approx(conditional - conditional.mean())


def test_samples_have_the_mean_and_shrink_to_it_with_data():
    rng = np.random.default_rng(2)
    truth = made_up(rng)
    few = [EVERY[index] for index in rng.choice(len(EVERY), 6, replace=False)]

    def spread(actions, deviation=1.0):
        critic = Critic.fit(HEADS, Prior(), actions, [truth.value(action) for action in actions])
        draws = [critic.sample(rng, deviation) for _ in range(2000)]
        drawn = np.array([[draw.value(action) for action in EVERY] for draw in draws])
        mean = [critic.mean().value(action) for action in EVERY]
        assert drawn.mean(0) == pytest.approx(mean, abs=0.2)
        return drawn.std(0).mean()

    assert spread(EVERY * 4) < 0.5 * spread(few)
    assert spread(few, 0.5) == pytest.approx(0.5 * spread(few), rel=0.1)
