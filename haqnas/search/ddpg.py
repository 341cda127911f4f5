"""Deterministic policy gradient with deep networks, as HAQ uses it (Lillicrap et al., ICLR 2016).

An episode has one reward, at its end, and nothing is discounted: the return of each step is that reward, known once
the episode has ended. So the critic is fitted to returns, where DDPG (and HAQ, which besides adds the reward at every
step) bootstraps from slow copies of the networks. Copies that follow by 0.01 each update hardly move in a search of a
few hundred trials: even with 0.1 regret after 100 trials was 1.2 times that of random search, with returns 0.6 times
(14 seeds of the problem in tests/search/test_strategies.py).
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import nn

from haqnas.search.critic import Vector


@dataclass(frozen=True, slots=True)
class Settings:
    """For some hundred trials of some ten steps; HAQ's, for 600 of some fifty, in brackets where they differ."""

    hidden: int = 64  # width of both hidden layers (300)
    actor_rate: float = 1e-3  # Adam's learning rates (1e-4)
    critic_rate: float = 1e-3
    baseline_share: float = 0.5  # of the batch's mean in the baseline, each update
    batch_size: int = 64


@dataclass(frozen=True, slots=True)
class Steps:
    """n steps of episodes."""

    observations: Vector  # (n, features)
    actions: Vector  # (n,), in [0, 1]
    returns: Vector  # (n,), the reward at the end of the step's episode


class Agent:
    """An actor, and a critic of its actions. First weights follow from `seed`; PyTorch's generator is left alone."""

    def __init__(self, num_features: int, settings: Settings, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.settings = settings
        self.actor = nn.Sequential(*_layers(num_features, settings.hidden, generator), nn.Sigmoid())
        self.critic = nn.Sequential(*_layers(num_features + 1, settings.hidden, generator))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), settings.actor_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), settings.critic_rate, fused=True)
        self.baseline: float | None = None  # moving average of batches' mean returns

    def act(self, observation: Vector) -> float:
        """The action in [0, 1], without noise."""
        with torch.no_grad():
            return float(self.actor(_tensor(observation)))

    def update(self, batch: Steps) -> None:
        """One step of the critic to the returns less the baseline, then one of the actor up the critic."""
        mean, share = float(batch.returns.mean()), self.settings.baseline_share
        self.baseline = mean if self.baseline is None else self.baseline + share * (mean - self.baseline)
        observations = _tensor(batch.observations)
        self.critic_optimizer.zero_grad()
        values = self.critic(torch.cat([observations, _tensor(batch.actions)[:, None]], 1))[:, 0]
        loss = nn.functional.mse_loss(values, _tensor(batch.returns - self.baseline))
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic_optimizer.step()
        self.actor_optimizer.zero_grad()
        (-self.critic(torch.cat([observations, self.actor(observations)], 1)).mean()).backward()
        self.actor_optimizer.step()


def truncated_normal(mean: float, deviation: float, rng: np.random.Generator) -> float:
    """A normal draw in [0, 1], by inversion."""
    low, high = ndtr(-mean / deviation), ndtr((1 - mean) / deviation)
    return float(np.clip(mean + deviation * ndtri(rng.uniform(low, high)), 0, 1))


def _layers(num_features: int, hidden: int, generator: torch.Generator) -> list[nn.Module]:
    """Two hidden layers and one output, with PyTorch's usual first weights."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((num_features, hidden, hidden, 1)):
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        for weight in linear.parameters():
            nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [linear, nn.ReLU()]
    return layers[:-1]


def _tensor(values: Vector) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
