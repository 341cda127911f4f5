"""The loss of all layers together: what single losses do not see, and a search that never leaves the budget."""

import itertools

import numpy as np
import pytest

from haqnas.quantspec import QuantSpec
from haqnas.search.ilp import Budget, reach, solve
from haqnas.search.pairwise import joint_loss, refine
from haqnas.space.knobs import Candidate
from tests.search.problems import SPECS, made_up_problem


def random_projections(problem, seed, rank):
    """Errors of layers that are correlated: all in few directions."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(rank, 64))
    return {
        name: {
            spec: (rng.normal(size=rank) @ basis * 2.0 ** (8 - spec.weight_bits)).astype(np.float32)
            for spec in SPECS
        }
        for name in problem.losses
    }


@pytest.mark.parametrize("seed", range(5))
def test_it_stays_within_the_budget_and_loses_less(seed):
    problem = made_up_problem(seed, 4, 2)
    projected = random_projections(problem, seed, 2)
    budget = Budget(latency=float(np.mean(reach(problem).latency)))
    start = solve(problem, budget)
    assert start is not None
    found = refine(problem, budget, start, projected)
    assert budget.allows(problem, found.policy(problem.space))
    assert joint_loss(problem, found, projected) <= joint_loss(problem, start, projected)
    # No other change of one knob within the budget helps.
    for knob in problem.space.knobs:
        for spec in knob.choices:
            other = Candidate({**found.choices, knob.name: spec})
            if budget.allows(problem, other.policy(problem.space)):
                assert joint_loss(problem, other, projected) >= joint_loss(problem, found, projected) * (
                    1 - 1e-4
                )


def test_errors_that_cancel_are_found():
    """Two layers whose errors are opposite lose nothing together, though each alone loses most."""
    problem = made_up_problem(1, 3, 0)
    error = np.ones(16, np.float32)
    narrow = QuantSpec(2, 4)
    projected = {
        name: {spec: (0.5 if spec != narrow else sign) * error for spec in SPECS}
        for name, sign in zip(problem.losses, (1, 1, 1, -3.5), strict=True)
    }
    names = [knob.name for knob in problem.space.knobs]
    start = Candidate(dict.fromkeys(names, SPECS[0]))
    free = Budget()
    found = refine(problem, free, start, projected)
    losses = [
        joint_loss(problem, Candidate(dict(zip(names, chosen, strict=True))), projected)
        for chosen in itertools.product(*(knob.choices for knob in problem.space.knobs))
    ]
    assert joint_loss(problem, found, projected) == pytest.approx(min(losses))
