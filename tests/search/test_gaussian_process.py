"""A Gaussian process over actions: its estimation, its posterior, and climbing on expected improvement."""

import itertools

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import norm

from haqnas.search import gaussian_process
from haqnas.search.critic import Head, Heads
from haqnas.search.gaussian_process import Kernel, Posterior, Process, estimate
from haqnas.search.strategy import Trial

HEADS = Heads(tuple(Head(f"head {index}", "QUANT", count) for index, count in enumerate((3, 4, 2))), ())
EVERY = list(itertools.product(*(range(count) for count in HEADS.counts)))


def made_up(seed: int, count: int, noise: float = 0.0):
    """Actions and rewards: heads 0 and 1 matter together, head 2 not at all."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(3, 4))
    actions = np.array([EVERY[index] for index in rng.permutation(len(EVERY))[:count]])
    return actions, table[actions[:, 0], actions[:, 1]] + noise * rng.normal(size=count), table


def test_the_gradient_of_the_density_is_right():
    actions, rewards, _ = made_up(0, 20)
    unlike = [(column[:, None] != column[None, :]).astype(float) for column in actions.T]
    rng = np.random.default_rng(1)
    for _ in range(5):
        logs = np.array([*rng.normal(size=4), -3.0])
        error = check_grad(
            lambda at: gaussian_process._loss(at, unlike, rewards)[0],
            lambda at: gaussian_process._loss(at, unlike, rewards)[1],
            logs,
        )
        assert error < 1e-4


def test_the_kernel_learns_which_heads_matter():
    actions, rewards, _ = made_up(2, 24)
    kernel = estimate(actions, (rewards - rewards.mean()) / rewards.std(), Kernel(np.ones(3), 1.0, 0.01))
    assert min(kernel.weights[:2]) > 3 * kernel.weights[2]


def test_the_posterior_is_that_of_the_textbook():
    """Rasmussen and Williams, equations 2.25 and 2.26, by a plain inverse."""
    actions, rewards, _ = made_up(3, 10)
    kernel = Kernel(np.array([0.5, 0.7, 0.1]), 1.3, 0.05)
    posterior = Posterior.after(kernel, actions, rewards)
    asked = np.array(EVERY)
    inverse = np.linalg.inv(kernel.of(actions, actions) + (0.05 + gaussian_process.LEAST_NOISE) * np.eye(10))
    across = kernel.of(asked, actions)
    mean = across @ inverse @ rewards
    deviation = np.sqrt(1.3 - np.einsum("ij,jk,ik->i", across, inverse, across))
    z = (mean - rewards.max()) / deviation
    improvement = deviation * (norm.pdf(z) + z * norm.cdf(z))
    assert posterior.log_improvement(EVERY) == pytest.approx(np.log(improvement), abs=1e-6)
    ranked = posterior.ranked(EVERY)
    assert ranked[0] == EVERY[int(improvement.argmax())]
    assert ranked[-1] == EVERY[int(improvement.argmin())]


def test_improvement_far_below_the_best_still_has_an_order():
    z = np.array([-1e4, -120.0, -99.0, -30.0, -5.0, -1.0, 0.0, 3.0, 60.0])
    found = gaussian_process._log_hinge(z)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    middle = z[3:]
    assert found[3:] == pytest.approx(np.log(norm.pdf(middle) + middle * norm.cdf(middle)))


def test_climbing_ends_where_no_allowed_change_gains():
    actions, rewards, _ = made_up(4, 8)
    posterior = Posterior.after(Kernel(np.ones(3), 1.0, 0.01), actions, rewards)
    allowed = {action for action in EVERY if sum(action) != 3}
    values = dict(zip(EVERY, posterior.log_improvement(EVERY), strict=True))
    for start in allowed:
        found = posterior.climbed(HEADS, start, allowed.__contains__)
        near = [other for other in allowed if sum(a != b for a, b in zip(found, other, strict=True)) == 1]
        assert found in allowed
        assert max(values[other] for other in near) <= values[found] + 1e-9
    assert posterior.climbed(HEADS, EVERY[0], lambda _: False) == EVERY[0]


@pytest.mark.parametrize("rewards", [(None,) * 24, (1.0,) * 24, (None, 1.0) * 12])
def test_trials_that_say_nothing_are_no_crash(rewards):
    trials = [Trial(action, reward) for action, reward in zip(EVERY, rewards, strict=True)]
    process, posterior = Process.prior(HEADS).after(trials)
    assert np.isfinite(posterior.log_improvement(EVERY)).all()
    assert process.num_trials == 24


def test_the_kernel_is_kept_between_estimations_of_many_trials(monkeypatch):
    monkeypatch.setattr(gaussian_process, "OFTEN", 4)
    trials = [Trial(action, float(sum(action))) for action in EVERY]
    process, _ = Process.prior(HEADS).after(trials[:10])
    assert process.num_trials == 10
    kept, _ = process.after(trials[:14])
    assert kept is process
    assert process.after(trials[:15])[0].num_trials == 15
