"""Bits by integer linear programming: the least predicted loss within budgets of latency and size.

One binary variable for each choice of each knob, one for each conversion that some choices need; HiGHS solves it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from haqnas.pricing import Cost, LayerPrices, NetworkModel
from haqnas.quantspec import QuantSpec
from haqnas.space.knobs import Candidate, Knob, SearchSpace
from haqnas.space.policy import Policy

TIME_LIMIT_S = 10.0  # then the best that was found stands; knapsacks of a hundred layers take a second
TOLERANCE = 1e-9  # of a budget, relative: rounding of sums
_ATTEMPTS = 5  # the solver keeps constraints to 1e-6 only

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is chosen, and what each choice costs: predicted loss (nats), price, packed bytes of weights."""

    space: SearchSpace
    losses: Mapping[str, Mapping[QuantSpec, float]]
    prices: LayerPrices
    model: NetworkModel
    sizes: Mapping[str, Mapping[QuantSpec, int]]
    fixed_bytes: int = 0  # of the packed weights, that belong to no layer

    def loss(self, policy: Policy) -> float:
        """The sum over layers, in nats a sample."""
        return sum(by_spec[policy.spec_of(name)] for name, by_spec in self.losses.items())

    def latency(self, policy: Policy) -> float:
        """Seconds or instructions."""
        return self.prices.price(policy, self.model)

    def size_bytes(self, policy: Policy) -> int:
        """Of all packed weights."""
        return self.fixed_bytes + sum(by_spec[policy.spec_of(name)] for name, by_spec in self.sizes.items())


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a policy may cost; None: any."""

    latency: float | None = None  # seconds or instructions, as the prices
    size_bytes: float | None = None

    def allows(self, problem: Problem, policy: Policy) -> bool:
        slack = 1 + TOLERANCE
        is_fast = self.latency is None or problem.latency(policy) <= self.latency * slack
        return is_fast and (self.size_bytes is None or problem.size_bytes(policy) <= self.size_bytes * slack)


@dataclass(frozen=True, slots=True)
class Reach:
    """The least and the most that can be had, whatever the loss."""

    latency: tuple[float, float]
    size_bytes: tuple[int, int]


Objective = Literal["loss", "latency", "size"]


def solve(problem: Problem, budget: Budget, objective: Objective = "loss") -> Candidate | None:
    """The candidate of least `objective` within `budget`; None where no candidate is."""
    limits = budget
    for _ in range(_ATTEMPTS):
        found = _solve(problem, limits, objective, 1.0)
        if found is None or budget.allows(problem, found.policy(problem.space)):
            return found
        limits = Budget(_tighter(limits.latency), limits.size_bytes)
    return None


def reach(problem: Problem) -> Reach:
    """What the candidates span."""

    def extreme(objective: Objective, sign: float) -> Policy:
        found = _solve(problem, Budget(), objective, sign)
        assert found is not None  # there is always some candidate
        return found.policy(problem.space)

    latencies = [problem.latency(extreme("latency", sign)) for sign in (1.0, -1.0)]
    sizes = [problem.size_bytes(extreme("size", sign)) for sign in (1.0, -1.0)]
    return Reach((latencies[0], latencies[1]), (sizes[0], sizes[1]))


def _tighter(limit: float | None) -> float | None:
    return None if limit is None else limit * (1 - 1e-6)


def _solve(problem: Problem, budget: Budget, objective: Objective, sign: float) -> Candidate | None:
    columns = _Columns.of(problem)
    latency, latency_rest = columns.latency(problem)
    size, size_rest = columns.sum_of(problem.sizes), float(problem.fixed_bytes)
    costs = (
        columns.sum_of(problem.losses)
        if objective == "loss"
        else {"latency": latency, "size": size}[objective]
    )
    constraints = [columns.one_choice_each(), *columns.conversions_where_read(problem)]
    if budget.latency is not None:
        constraints.append(_at_most(latency, budget.latency * (1 + TOLERANCE) - latency_rest))
    if budget.size_bytes is not None:  # whole bytes: half a byte keeps rounding away
        constraints.append(_at_most(size, np.floor(budget.size_bytes * (1 + TOLERANCE)) + 0.5 - size_rest))
    found = milp(
        sign * _normal(costs),
        constraints=constraints,
        integrality=np.ones(columns.count),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT_S},
    )
    return None if found.x is None else columns.candidate(found.x)


def _normal(costs: Vector) -> Vector:
    """Scaled so that the greatest is 1: the solver's tolerances are absolute."""
    greatest = np.abs(costs).max(initial=0.0)
    return costs / greatest if greatest > 0 else costs


def _at_most(costs: Vector, limit: float) -> LinearConstraint:
    scale = max(float(np.abs(costs).sum()), 1e-300)
    return LinearConstraint(costs[None, :] / scale, -np.inf, limit / scale)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the variables stand: the choices of all knobs, then the conversions."""

    choices: tuple[tuple[Knob, QuantSpec], ...]
    num_conversions: int

    @classmethod
    def of(cls, problem: Problem) -> "_Columns":
        choices = tuple((knob, spec) for knob in problem.space.knobs for spec in knob.choices)
        return cls(choices, len(problem.prices.conversions))

    @property
    def count(self) -> int:
        return len(self.choices) + self.num_conversions

    def row(self, values: Iterable[float]) -> Vector:
        """A number for each choice, and zeros for conversions."""
        return np.array([*values, *[0.0] * self.num_conversions], np.float64)

    def sum_of(self, by_layer: Mapping[str, Mapping[QuantSpec, float]]) -> Vector:
        """What each choice adds, over the layers of its knob."""
        return self.row(sum(by_layer[layer][spec] for layer in knob.layers) for knob, spec in self.choices)

    def latency(self, problem: Problem) -> tuple[Vector, float]:
        """What each choice and conversion adds, and the rest."""
        total, prices = problem.model.total, problem.prices
        costs = self.row(
            total(sum((prices.layers[layer][spec] for layer in knob.layers), start=Cost()))
            for knob, spec in self.choices
        )
        if self.num_conversions:
            costs[len(self.choices) :] = [total(conversion.cost) for conversion in prices.conversions]
        return costs, total(sum(prices.glue.values(), start=Cost()))

    def one_choice_each(self) -> LinearConstraint:
        names = dict.fromkeys(knob.name for knob, _ in self.choices)
        rows = [self.row(knob.name == name for knob, _ in self.choices) for name in names]
        return LinearConstraint(np.array(rows), 1, 1)

    def conversions_where_read(self, problem: Problem) -> list[LinearConstraint]:
        """A conversion is there where one of its readers has so many bits, and only there."""
        constraints = []
        for index, conversion in enumerate(problem.prices.conversions):
            here = np.zeros(self.count)
            here[len(self.choices) + index] = 1.0
            readers = [self._at_bits(reader, conversion.act_bits) for reader in sorted(conversion.readers)]
            constraints.append(LinearConstraint(np.array([here - row for row in readers]), 0, np.inf))
            constraints.append(LinearConstraint((np.sum(readers, axis=0) - here)[None, :], 0, np.inf))
        return constraints

    def _at_bits(self, layer: str, act_bits: int) -> Vector:
        return self.row(layer in knob.layers and spec.act_bits == act_bits for knob, spec in self.choices)

    def candidate(self, values: Vector) -> Candidate:
        chosen: dict[str, tuple[float, QuantSpec]] = {}
        for (knob, spec), value in zip(self.choices, values, strict=False):
            if knob.name not in chosen or value > chosen[knob.name][0]:
                chosen[knob.name] = (float(value), spec)
        return Candidate({name: spec for name, (_, spec) in chosen.items()})
