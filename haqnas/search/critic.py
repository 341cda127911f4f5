"""A factored Bayesian critic: what each choice, and each pair of choices, adds to the reward.

Q(a) = bias + sum over heads u_h[a_h] + sum over pairs v_hg[a_h, a_g], linear in one-hot features, with a Gaussian prior
on every weight. The posterior of n trials takes one n x n factorisation, so hundreds of trials cost milliseconds. The
form gives exact expectations under factored policies without sampling: pairs are bilinear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Vector: TypeAlias = NDArray[np.float64]
Action: TypeAlias = tuple[int, ...]  # the option of each head
Policies: TypeAlias = tuple[Vector, ...]  # a distribution over the options of each head

BIAS_PRECISION = 1e-3  # the mean reward is not known beforehand


@dataclass(frozen=True, slots=True)
class Head:
    """One decision: how many options it has, and the agent that takes it."""

    name: str
    agent: str
    count: int


@dataclass(frozen=True)
class Heads:
    """All decisions, and the pairs of them (by index, the lesser first) that may interact."""

    heads: tuple[Head, ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(head.count for head in self.heads)

    @cached_property
    def _starts(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Where the features of each head and of each pair begin, and how many there are."""
        sizes = [*self.counts, *(self.counts[a] * self.counts[b] for a, b in self.pairs)]
        starts = np.cumsum([1, *sizes])
        count = len(self.heads)
        return tuple(starts[:count].tolist()), tuple(starts[count:-1].tolist()), int(starts[-1])

    @property
    def num_features(self) -> int:
        return self._starts[2]

    def positions(self, actions: Sequence[Action]) -> NDArray[np.int64]:
        """(n, ones): which features of each action are 1; the bias is feature 0."""
        chosen = np.asarray(actions, np.int64).reshape(len(actions), len(self.heads))
        singles, doubles, _ = self._starts
        pairs = [chosen[:, a] * self.counts[b] + chosen[:, b] for a, b in self.pairs]
        columns = [np.zeros((len(actions), 1), np.int64), chosen + np.array(singles, np.int64)]
        if pairs:
            columns.append(np.stack(pairs, 1) + np.array(doubles))
        return np.concatenate(columns, 1)

    def split(self, weights: Vector) -> "Factored":
        """Weights of all features, as a function of actions."""
        singles, doubles, _ = self._starts
        counts = self.counts
        unary = tuple(weights[start : start + n] for start, n in zip(singles, counts, strict=True))
        pair = {
            (a, b): weights[start : start + counts[a] * counts[b]].reshape(counts[a], counts[b])
            for (a, b), start in zip(self.pairs, doubles, strict=True)
        }
        return Factored(float(weights[0]), unary, pair)


@dataclass(frozen=True, slots=True)
class Factored:
    """One function of actions: `bias`, what each option of each head adds, what each pair of options adds."""

    bias: float
    unary: tuple[Vector, ...]
    pair: Mapping[tuple[int, int], Vector]

    def value(self, action: Action) -> float:
        """Q of one action."""
        alone = sum(float(values[option]) for values, option in zip(self.unary, action, strict=True))
        together = sum(float(values[action[a], action[b]]) for (a, b), values in self.pair.items())
        return self.bias + alone + together

    def expected(self, policies: Policies) -> float:
        """E[Q] where each head draws by its policy."""
        alone = sum(float(values @ policy) for values, policy in zip(self.unary, policies, strict=True))
        together = sum(float(policies[a] @ values @ policies[b]) for (a, b), values in self.pair.items())
        return self.bias + alone + together

    def of_head(self, head: int, policies: Policies) -> Vector:
        """What each option of `head` adds, in expectation over the others: Q_i(a_i) up to a constant."""
        found: Vector = self.unary[head].copy()
        for (a, b), values in self.pair.items():
            if a == head:
                found += values @ policies[b]
            elif b == head:
                found += policies[a] @ values
        return found


@dataclass(frozen=True, slots=True)
class Prior:
    """Precisions of the weights, and the variance of a reward's noise; rewards have variance 1."""

    unary: float = 1.0
    pair: float = 3.0
    noise: float = 0.05


@dataclass(frozen=True)
class Critic:
    """The posterior after some trials; rewards are of any unit."""

    heads: Heads
    prior: Prior
    ones: NDArray[np.int64]  # features of each trial
    centre: float
    scale: float
    targets: Vector  # standardised rewards

    @classmethod
    def fit(cls, heads: Heads, prior: Prior, actions: Sequence[Action], rewards: Sequence[float]) -> "Critic":
        """From at least one trial."""
        values = np.asarray(rewards, np.float64)
        centre, scale = float(values.mean()), float(values.std()) + 1e-9
        return cls(heads, prior, heads.positions(actions), centre, scale, (values - centre) / scale)

    @cached_property
    def _variances(self) -> Vector:
        found = np.full(self.heads.num_features, 1 / self.prior.pair)
        found[1 : 1 + sum(self.heads.counts)] = 1 / self.prior.unary
        found[0] = 1 / BIAS_PRECISION
        return found

    @cached_property
    def _features(self) -> Vector:
        found = np.zeros((len(self.ones), self.heads.num_features))
        np.put_along_axis(found, self.ones, 1.0, axis=1)
        return found

    @cached_property
    def _factor(self) -> tuple[Vector, bool]:
        kernel = (self._features * self._variances) @ self._features.T
        factor, is_lower = cho_factor(kernel + self.prior.noise * np.eye(len(self.ones)))
        return factor, bool(is_lower)

    def _solved(self, residuals: Vector) -> Vector:
        weights: Vector = self._variances * (self._features.T @ cho_solve(self._factor, residuals))
        return weights

    def mean(self) -> Factored:
        """The posterior mean, of standardised rewards."""
        return self.heads.split(self._solved(self.targets))

    def sample(self, rng: np.random.Generator, deviation: float = 1.0) -> Factored:
        """A draw from the posterior (Thompson), by Matheron's rule: a draw of the prior, corrected by the data.

        `deviation` is that of the draw from the mean, as a share of the posterior's own.
        """
        drawn = deviation * rng.normal(size=self.heads.num_features) * np.sqrt(self._variances)
        noise = deviation * rng.normal(size=len(self.ones)) * np.sqrt(self.prior.noise)
        return self.heads.split(drawn + self._solved(self.targets - self._features @ drawn - noise))
