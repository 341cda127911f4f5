"""Architecture and bits as one game: decisions of both, prices of actions, and where to begin."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from haqnas.bit_goal import NUM_FIRST, Costs, Goal
from haqnas.bit_prices import BitPrices
from haqnas.bit_search import excess, policy_within
from haqnas.elastic_prices import ElasticPrices
from haqnas.pricing import Cost, LayerPrices
from haqnas.quantspec import QuantSpec
from haqnas.search.critic import Action
from haqnas.search.ilp import Budget, Objective, Problem, solve
from haqnas.search.study import Decision
from haqnas.space.architecture import Architecture, ArchitectureKnob, KnobKind
from haqnas.space.knobs import WIDEST, SearchSpace
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity

ARCH, QUANT = "ARCH", "QUANT"  # the agents
ROOM = 0.8  # of a limit, that the least architecture at 8 bits takes at most
KEPT = 4096  # architectures whose costs are kept: strategies ask for those of neighbours again and again


@dataclass(frozen=True)
class JointGoal(Goal):
    """Actions choose for the architecture's knobs first, then for the bits.

    `problem` is that of the whole network, in which layers of other operators than the first cost nothing; `losses` are
    those of all layers.
    """

    elastic: ElasticPrices
    losses: Mapping[str, Mapping[QuantSpec, float]]

    @property
    def shapes(self) -> tuple[ArchitectureKnob, ...]:
        """The knobs of the architecture."""
        return self.elastic.space.knobs

    def decisions(self) -> tuple[Decision, ...]:
        return (
            *(Decision(knob.name, ARCH, tuple(map(knob.label, knob.choices))) for knob in self.shapes),
            *(Decision(knob.name, QUANT, tuple(map(str, knob.choices))) for knob in self.knobs),
        )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """A layer's bits with those of the next, and with the knobs that change the layer."""
        count = len(self.shapes)
        chain = [(count + index, count + index + 1) for index in range(len(self.knobs) - 1)]
        across = [
            (place, count + index)
            for place, shape in enumerate(self.shapes)
            for index, knob in enumerate(self.knobs)
            if {*shape.layers} & {*knob.layers}
        ]
        return (*chain, *across)

    def architecture(self, action: Action) -> Architecture:
        """What the first decisions chose."""
        return Architecture(self._choices(action))

    def policy(self, action: Action) -> Policy:
        """The bits of every layer that the architecture has."""
        gone = self.elastic.shapes.gone(self._choices(action))
        found = super().policy(action[len(self.shapes) :])
        return Policy(found.default, {name: spec for name, spec in found.layers.items() if name not in gone})

    def joint_action(self, architecture: Architecture, policy: Policy) -> Action:
        """Inverse of `architecture` and `policy`."""
        chosen = {**self.elastic.space.identity.choices, **architecture.choices}
        return (*(knob.choices.index(chosen[knob.name]) for knob in self.shapes), *self.action(policy))

    def costs(self, action: Action) -> tuple[Costs, Action]:
        count = len(self.shapes)
        return self._cached_costs(action[:count]), action[count:]

    def problem_at(self, architecture: Architecture) -> Problem:
        """The choice of bits for one architecture; layers that it does without cost nothing."""
        return problem_for(self.problem.space, self.losses, self.elastic.of(architecture))

    def loss(self, action: Action) -> float:
        return sum(self.losses[name][spec] for name, spec in self.policy(action).layers.items())

    def _choices(self, action: Action) -> dict[str, int]:
        return {
            knob.name: knob.choices[option]
            for knob, option in zip(self.shapes, action[: len(self.shapes)], strict=True)
        }

    @cached_property
    def _cached_costs(self) -> Callable[[Action], Costs]:
        @lru_cache(KEPT)
        def costs(shape: Action) -> Costs:
            architecture = Architecture(self._choices(shape))
            return Costs.of(Goal(self.problem_at(architecture), self.limits, self.max_drop))

        return costs


def problem_for(
    space: SearchSpace, losses: Mapping[str, Mapping[QuantSpec, float]], found: BitPrices
) -> Problem:
    """The choice of bits for an architecture with the prices `found`; layers that it does without cost nothing."""
    none: Mapping[QuantSpec, Cost] = dict.fromkeys(space.specs, Cost())
    names = [layer for knob in space.knobs for layer in knob.layers]
    no_bytes = dict.fromkeys(none, 0)
    return Problem(
        space,
        {name: row if name in found.sizes else dict.fromkeys(row, 0.0) for name, row in losses.items()},
        LayerPrices(
            {name: found.prices.layers.get(name, none) for name in names},
            found.prices.conversions,
            found.prices.glue,
        ),
        found.model,
        {name: found.sizes.get(name, no_bytes) for name in names},
        found.fixed_bytes,
    )


def what_limits_need(elastic: ElasticPrices, limits: Budget) -> ElasticPrices:
    """The prices of a space without architectures far below the limits; all of it where nothing is limited.

    A quarter, half or three quarters of each knob's smaller choices are open: the fewest of which the least
    architecture, at 8 bits, has some room below the limits. What is smaller would be trained for nothing, at the cost
    of what may be chosen (docs/architecture-space.md has the experiment).
    """
    if limits.latency is None and limits.size_bytes is None:
        return elastic
    for share in (0.25, 0.5, 0.75):
        left = replace(elastic, space=elastic.space.opened(dict.fromkeys(KnobKind, share)))
        latency, size_bytes = (amount(left.least(amount)) for amount in _amounts_at_8_bits(left))
        if max(excess(latency, limits.latency), excess(size_bytes, limits.size_bytes)) <= ROOM:
            return left
    return elastic


def _amounts_at_8_bits(elastic: ElasticPrices) -> tuple[Callable[[Architecture], float], ...]:
    """Latency, and packed bytes of weights."""

    def latency(architecture: Architecture) -> float:
        found = elastic.of(architecture)
        return found.prices.price(Policy(WIDEST), found.model)

    def size_bytes(architecture: Architecture) -> float:
        found = elastic.of(architecture)
        return found.fixed_bytes + sum(row[WIDEST] for row in found.sizes.values())

    return latency, size_bytes


def is_reachable(goal: JointGoal) -> bool:
    """Whether the least architectures at some bits are within the limits."""
    latency, size_bytes = least_amounts(goal)
    return max(excess(latency, goal.limits.latency), excess(size_bytes, goal.limits.size_bytes)) <= 1


def least_amounts(goal: JointGoal) -> tuple[float, int]:
    """The least latency, and the least packed bytes of weights, each of the architecture and bits that have it."""

    def least_policy(problem: Problem, objective: Objective) -> Policy:
        found = solve(problem, Budget(), objective)
        assert found is not None  # any bits will do
        return found.policy(problem.space)

    def latency(architecture: Architecture) -> float:
        problem = goal.problem_at(architecture)
        return problem.latency(least_policy(problem, "latency"))

    def size_bytes(architecture: Architecture) -> int:
        problem = goal.problem_at(architecture)
        return problem.size_bytes(least_policy(problem, "size"))

    return latency(goal.elastic.least(latency)), size_bytes(goal.elastic.least(size_bytes))


def first_joint_actions(goal: JointGoal, sensitivity: Sensitivity, num_trials: int) -> tuple[Action, ...]:
    """What a warm start begins with: architectures from whole to least, each with the ILP's answer for its bits.

    Only what is within budget, which without one is uniform int8.
    """
    found: dict[Action, None] = {}
    for architecture in _evenly_smaller(goal):
        problem = goal.problem_at(architecture)
        policy = policy_within(problem, _of_layers(sensitivity, problem), goal.limits)
        if policy is not None:
            action = goal.joint_action(architecture, policy)
            if goal.price(action) <= 1:
                found[action] = None
    return tuple(found)[: max(1, min(NUM_FIRST, num_trials // 2))]


def _of_layers(sensitivity: Sensitivity, problem: Problem) -> Sensitivity:
    """Without what layers lose that the architecture does without."""
    projected = {
        name: row if any(problem.sizes[name].values()) else {spec: values * 0 for spec, values in row.items()}
        for name, row in sensitivity.projected.items()
    }
    return replace(sensitivity, projected=projected)


def _evenly_smaller(goal: JointGoal) -> Iterator[Architecture]:
    """Whole, then less depth, less width, or both, by ever greater shares of the choices; operators go with depth."""
    steps = (0.0, 0.34, 0.67, 1.0)
    smaller = {knob.name: _ever_cheaper(goal, knob) for knob in goal.shapes}
    for depth, width in sorted(((a, b) for a in steps for b in steps), key=sum):
        shares = {KnobKind.DEPTH: depth, KnobKind.OPERATOR: depth}
        yield Architecture(
            {
                knob.name: choices[round(shares.get(knob.kind, width) * (len(choices) - 1))]
                for knob in goal.shapes
                for choices in [smaller[knob.name]]
            }
        )


def _ever_cheaper(goal: JointGoal, knob: ArchitectureKnob) -> tuple[int, ...]:
    """A knob's choices from that of the network on; of operators those that cost less than the first, by cost."""
    if knob.kind is not KnobKind.OPERATOR:
        return knob.choices

    latency, _ = _amounts_at_8_bits(goal.elastic)
    costs = {choice: latency(Architecture({knob.name: choice})) for choice in knob.choices}
    first = knob.choices[0]
    cheaper = sorted((one for one in knob.choices if costs[one] < costs[first]), key=lambda one: -costs[one])
    return first, *cheaper
