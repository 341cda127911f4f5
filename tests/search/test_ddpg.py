"""The actor and critic of HAQ."""

import numpy as np
import pytest
import torch

from haqnas.search.ddpg import Agent, Settings, Steps, truncated_normal


def test_noise_stays_within_the_range_and_around_the_mean():
    rng = np.random.default_rng(0)
    for mean, deviation in ((0.5, 0.5), (0.0, 0.2), (1.0, 1e-3), (0.3, 1e-6)):
        draws = [truncated_normal(mean, deviation, rng) for _ in range(300)]
        assert 0 <= min(draws) <= max(draws) <= 1
        assert abs(np.mean(draws) - mean) < max(0.1, deviation)
    assert np.std([truncated_normal(0.5, 0.05, rng) for _ in range(300)]) == pytest.approx(0.05, rel=0.2)


def test_weights_come_from_the_seed_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (Agent(3, Settings(), seed) for seed in (1, 1, 2))
    observation = np.array([0.1, 0.5, 0.9])
    assert one.act(observation) == same.act(observation) != other.act(observation)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_actor_moves_each_step_to_what_is_rewarded_at_the_episodes_end():
    rng = np.random.default_rng(0)
    agent = Agent(2, Settings(actor_rate=3e-3, critic_rate=3e-3), 0)
    steps = np.repeat(np.eye(2), 32, axis=0)  # the first should be high, the second low
    for _ in range(200):
        high, low = rng.random((2, 32))
        agent.update(Steps(steps, np.concatenate([high, low]), np.tile(50 + high - low, 2)))
    assert agent.act(np.array([1.0, 0.0])) > 0.8
    assert agent.act(np.array([0.0, 1.0])) < 0.2
    assert agent.baseline == pytest.approx(50, abs=0.5)
