"""Architecture and bits as one game: decisions of both, prices of actions, and where to begin."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from haqnas.bit_goal import NUM_FIRST, Costs, Goal
from haqnas.bit_search import excess, policy_within
from haqnas.elastic_prices import ElasticPrices
from haqnas.pricing import Cost, LayerPrices
from haqnas.quantspec import QuantSpec
from haqnas.search.critic import Action
from haqnas.search.ilp import Budget, Problem, reach
from haqnas.search.study import Decision
from haqnas.space.architecture import Architecture, ArchitectureKnob, KnobKind
from haqnas.space.knobs import WIDEST
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity

ARCH, QUANT = "ARCH", "QUANT"  # the agents
ROOM = 0.8  # of a limit, that the least architecture at 8 bits takes at most
KEPT = 4096  # architectures whose costs are kept: strategies ask for those of neighbours again and again


@dataclass(frozen=True)
class JointGoal(Goal):
    """Actions choose for the architecture's knobs first, then for the bits. `problem` is that of the whole network."""

    elastic: ElasticPrices

    @property
    def shapes(self) -> tuple[ArchitectureKnob, ...]:
        """The knobs of the architecture."""
        return self.elastic.space.knobs

    def decisions(self) -> tuple[Decision, ...]:
        return (
            *(Decision(knob.name, ARCH, tuple(map(str, knob.choices))) for knob in self.shapes),
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
        found = self.elastic.of(architecture)
        none: Mapping[QuantSpec, Cost] = dict.fromkeys(self.problem.space.specs, Cost())
        names = [layer for knob in self.problem.space.knobs for layer in knob.layers]
        layers = {name: found.prices.layers.get(name, none) for name in names}
        no_bytes = dict.fromkeys(none, 0)
        return replace(
            self.problem,
            losses={
                name: row if name in found.sizes else dict.fromkeys(row, 0.0)
                for name, row in self.problem.losses.items()
            },
            prices=LayerPrices(layers, found.prices.conversions, found.prices.glue),
            sizes={name: found.sizes.get(name, no_bytes) for name in names},
            fixed_bytes=found.fixed_bytes,
        )

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


def what_limits_need(elastic: ElasticPrices, limits: Budget) -> ElasticPrices:
    """The prices of a space without architectures far below the limits; all of it where nothing is limited.

    A quarter, half or three quarters of each knob's smaller choices are open: the fewest of which the least
    architecture, at 8 bits, has some room below the limits. What is smaller would be trained for nothing, at the cost
    of what may be chosen (docs/architecture-space.md has the experiment).
    """
    if limits.latency is None and limits.size_bytes is None:
        return elastic
    for share in (0.25, 0.5, 0.75):
        space = elastic.space.opened(dict.fromkeys(KnobKind, share))
        found = elastic.of(space.least)
        size_bytes = found.fixed_bytes + sum(row[WIDEST] for row in found.sizes.values())
        latency = found.prices.price(Policy(WIDEST), found.model)
        if max(excess(latency, limits.latency), excess(size_bytes, limits.size_bytes)) <= ROOM:
            return replace(elastic, space=space)
    return elastic


def is_reachable(goal: JointGoal) -> bool:
    """Whether the least architecture at some bits is within the limits."""
    least = goal.problem_at(goal.elastic.space.least)
    spans = reach(least)
    return (
        max(
            excess(spans.latency[0], goal.limits.latency),
            excess(spans.size_bytes[0], goal.limits.size_bytes),
        )
        <= 1
    )


def first_joint_actions(goal: JointGoal, sensitivity: Sensitivity, num_trials: int) -> tuple[Action, ...]:
    """What a warm start begins with: architectures from whole to least, each with the ILP's answer for its bits.

    Only what is within budget, which without one is uniform int8.
    """
    found: dict[Action, None] = {}
    for architecture in _evenly_smaller(goal):
        policy = policy_within(goal.problem_at(architecture), sensitivity, goal.limits)
        if policy is not None:
            action = goal.joint_action(architecture, policy)
            if goal.price(action) <= 1:
                found[action] = None
    return tuple(found)[: max(1, min(NUM_FIRST, num_trials // 2))]


def _evenly_smaller(goal: JointGoal) -> Iterator[Architecture]:
    """Whole, then less depth, less width, or both, by ever greater shares of the choices."""
    steps = (0.0, 0.34, 0.67, 1.0)
    for depth, width in sorted(((a, b) for a in steps for b in steps), key=sum):
        shares = {KnobKind.DEPTH: depth}
        yield Architecture(
            {
                knob.name: knob.choices[round(shares.get(knob.kind, width) * (len(knob.choices) - 1))]
                for knob in goal.shapes
            }
        )
