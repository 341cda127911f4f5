"""How errors of layers add up: improve the ILP's answer by the loss of all layers together (CLADO, arXiv 2307.05657).

The ILP adds up losses of single layers. With the projections of `estimate_loss` the loss of a whole policy is half the
mean square of their sum, which has a term for each pair of layers, too.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from haqnas.quantspec import QuantSpec
from haqnas.search.ilp import Budget, Problem
from haqnas.space.knobs import Candidate, Knob

Projections = Mapping[str, Mapping[QuantSpec, NDArray[np.float32]]]

MOST_ROUNDS = 50
LEAST_GAIN = 1e-6  # of the loss: less is rounding


def joint_loss(problem: Problem, candidate: Candidate, projected: Projections) -> float:
    """The loss of all layers together, nats a sample."""
    policy = candidate.policy(problem.space)
    total = np.sum([row[policy.spec_of(name)] for name, row in projected.items()], axis=0, dtype=np.float64)
    return float(0.5 * np.mean(np.square(total)))


def refine(problem: Problem, budget: Budget, start: Candidate, projected: Projections) -> Candidate:
    """From `start`, the best change of one or two knobs within `budget`, again and again until none helps."""
    best = start
    for _ in range(MOST_ROUNDS):
        better = _improvements(problem.space.knobs, best, projected)
        found = next(
            (change for change in better if budget.allows(problem, change.policy(problem.space))), None
        )
        if found is None:
            return best
        best = found
    return best


def _improvements(knobs: Sequence[Knob], candidate: Candidate, projected: Projections) -> Iterator[Candidate]:
    """Candidates that differ in one or two knobs and lose less, the best first."""
    changes = [
        (knob, spec) for knob in knobs for spec in knob.choices if spec != candidate.choices[knob.name]
    ]
    if not changes:
        return
    total = np.sum([_projection(knob, candidate.choices[knob.name], projected) for knob in knobs], axis=0)
    steps = np.array(
        [
            _projection(knob, spec, projected) - _projection(knob, candidate.choices[knob.name], projected)
            for knob, spec in changes
        ]
    )
    products = steps @ steps.T / total.size
    alone = 0.5 * products.diagonal() + steps @ total / total.size  # what one change adds to the loss
    together = alone[:, None] + alone[None, :] + products
    same_knob = np.array([[knob is other for other, _ in changes] for knob, _ in changes])
    together[same_knob] = np.inf
    np.fill_diagonal(together, alone)
    rows, columns = np.nonzero(np.triu(together < -LEAST_GAIN * 0.5 * np.mean(np.square(total))))
    for index in np.argsort(together[rows, columns], kind="stable"):
        (first, one), (second, other) = changes[rows[index]], changes[columns[index]]
        yield Candidate({**candidate.choices, first.name: one, second.name: other})


def _projection(knob: Knob, spec: QuantSpec, projected: Projections) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sum(
        [projected[layer][spec] for layer in knob.layers], axis=0, dtype=np.float64
    )
    return found
