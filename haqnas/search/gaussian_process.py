"""A Gaussian process over actions, and climbing on the expected improvement of its posterior.

The kernel is Matern 5/2 of a distance that adds up, over the heads in which two actions differ, what that head's choice
matters. Priors of its parameters are those of Optuna's process for categories (optuna._gp.prior), and so is the way of
their estimation: the greatest posterior density.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import erfcx
from scipy.stats import norm

from haqnas.search.actions import Test, neighbours
from haqnas.search.critic import Action, Heads, Vector
from haqnas.search.marl import with_failures
from haqnas.search.strategy import Trial

LEAST_NOISE = 1e-6  # variance, of rewards whose variance is 1
MOST_STEPS = 50  # of the estimation
OFTEN = 40  # trials, up to which the kernel is estimated after each; then after every SELDOM-th
SELDOM = 5
BOUND = 8.0  # of the logarithms of parameters


@dataclass(frozen=True, slots=True)
class Kernel:
    """`weights` (heads,): what a difference in each head adds to the squared distance."""

    weights: Vector
    scale: float  # variance of the process
    noise: float  # variance of rewards about it

    def of(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Vector:
        """Covariances (n, m) of actions (n, heads) and (m, heads), without noise."""
        squares = np.zeros((len(first), len(second)))
        for head, weight in enumerate(self.weights):
            squares += weight * (first[:, head, None] != second[None, :, head])
        return self.scale * _matern(squares)[0]


def _matern(squares: Vector) -> tuple[Vector, Vector]:
    """Matern 5/2 at squared distances, and its derivative by them."""
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    return (1 + root + 5 / 3 * squares) * decay, -5 / 6 * (1 + root) * decay


def estimate(actions: NDArray[np.int64], rewards: Vector, start: Kernel) -> Kernel:
    """The kernel of the greatest posterior density for rewards (n,) of actions (n, heads), sought from `start`."""
    unlike = [(column[:, None] != column[None, :]).astype(np.float64) for column in actions.T]
    logs = np.log(np.array([*start.weights, start.scale, start.noise]))
    found = minimize(
        _loss,
        np.clip(logs, -BOUND, BOUND),
        args=(unlike, rewards),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-BOUND, BOUND)] * (len(logs) - 1) + [(math.log(LEAST_NOISE), 0.0)],
        options={"maxiter": MOST_STEPS},
    )
    *weights, scale, noise = np.exp(found.x).tolist()
    return Kernel(np.array(weights), scale, noise)


def _loss(logs: Vector, unlike: Sequence[Vector], rewards: Vector) -> tuple[float, Vector]:
    """Minus the log posterior density, but for a constant, and its gradient by the logarithms of the parameters."""
    values = np.exp(logs)
    weights, scale, noise = values[:-2], values[-2], values[-1]
    squares = sum((weight * part for weight, part in zip(weights, unlike, strict=True)), np.zeros(1))
    shape, slope = _matern(squares)
    size = len(rewards)
    factor = cholesky(scale * shape + (noise + LEAST_NOISE) * np.eye(size), lower=True)
    alpha = cho_solve((factor, True), rewards)
    loss = 0.5 * rewards @ alpha + np.log(np.diag(factor)).sum()
    pull = 0.5 * (cho_solve((factor, True), np.eye(size)) - np.outer(alpha, alpha))
    sloped = pull * slope * scale
    by_weights = [weight * (sloped * part).sum() for weight, part in zip(weights, unlike, strict=True)]
    gradient = np.array([*by_weights, scale * (pull * shape).sum(), noise * np.trace(pull)])
    prior = (
        (0.1 / weights + 0.1 * weights).sum() + scale - math.log(scale) + 30 * noise - 0.1 * math.log(noise)
    )
    slopes = np.array([*(-0.1 / weights + 0.1 * weights), scale - 1, 30 * noise - 0.1])
    return float(loss + prior), gradient + slopes


@dataclass(frozen=True)
class Posterior:
    """What is known after some trials; rewards in units of their own spread."""

    kernel: Kernel
    actions: NDArray[np.int64]
    factor: Vector  # of the covariances of the trials
    alpha: Vector
    best: float

    @classmethod
    def after(cls, kernel: Kernel, actions: NDArray[np.int64], rewards: Vector) -> "Posterior":
        """`rewards` (n,) of actions (n, heads)."""
        covariances = kernel.of(actions, actions) + (kernel.noise + LEAST_NOISE) * np.eye(len(actions))
        factor = cholesky(covariances, lower=True)
        return cls(kernel, actions, factor, cho_solve((factor, True), rewards), float(rewards.max()))

    def log_improvement(self, actions: Sequence[Action]) -> Vector:
        """Logarithm of the expected improvement over the best reward, of each action."""
        asked = np.asarray(actions, np.int64)
        across = self.kernel.of(self.actions, asked)
        mean = across.T @ self.alpha
        known = (solve_triangular(self.factor, across, lower=True) ** 2).sum(0)
        deviation = np.sqrt(np.maximum(self.kernel.scale - known, 1e-12))
        found: Vector = np.log(deviation) + _log_hinge((mean - self.best) / deviation)
        return found

    def ranked(self, actions: Sequence[Action]) -> list[Action]:
        """The greatest improvement first; at least one action."""
        order = np.argsort(-self.log_improvement(actions), kind="stable")
        return [actions[index] for index in order]

    def climbed(self, heads: Heads, action: Action, is_allowed: Test) -> Action:
        """Up from `action` by single changes to allowed actions, until none gains."""
        value = self.log_improvement([action])[0]
        while True:
            around = [other for other in neighbours(heads, action) if is_allowed(other)]
            values = self.log_improvement(around) if around else np.array([-np.inf])
            if values.max() <= value + 1e-9:
                return action
            value, action = values.max(), around[int(values.argmax())]


@dataclass(frozen=True, slots=True)
class Process:
    """What is estimated: the kernel, from so many trials. It is kept from one posterior to the next."""

    kernel: Kernel
    num_trials: int = 0

    @classmethod
    def prior(cls, heads: Heads) -> "Process":
        """Before any trial."""
        return cls(Kernel(np.ones(len(heads.heads)), 1.0, 0.01))

    def after(self, trials: Sequence[Trial]) -> tuple["Process", Posterior]:
        """From at least one trial; a failure counts half a range below the worst."""
        actions = np.array([trial.action for trial in trials], np.int64)
        scores = np.array(with_failures([trial.score for trial in trials]))
        rewards = (scores - scores.mean()) / (scores.std() + 1e-12)
        process = self
        if len(trials) <= OFTEN or len(trials) >= self.num_trials + SELDOM:
            process = Process(estimate(actions, rewards, self.kernel), len(trials))
        return process, Posterior.after(process.kernel, actions, rewards)


def _log_hinge(z: Vector) -> Vector:
    """log(pdf(z) + z cdf(z)) of the normal distribution, without cancellation (LogEI, arXiv 2310.20708)."""
    below = np.minimum(z, -1.0)  # where the sum cancels
    density = -0.5 * below**2 - 0.5 * math.log(2 * math.pi)
    share = 1 + below * math.sqrt(math.pi / 2) * erfcx(-below / math.sqrt(2))
    far = below < -100  # where `share` cancels, too
    low = density + np.log(np.where(far, 1 / below**2, np.maximum(share, 1e-300)))
    above = np.maximum(z, -1.0)
    return np.where(z < -1, low, np.log(norm.pdf(above) + above * norm.cdf(above)))
