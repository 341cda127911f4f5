"""Bits as a game for strategies: one decision per layer, prices of actions, what is a good policy, where to begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from haqnas.bit_search import (
    DEFAULT_MAX_DROP,
    Own,
    Search,
    excess,
    least_loss,
    policy_within,
    problem_of,
)
from haqnas.quantspec import QuantSpec
from haqnas.search.critic import Action
from haqnas.search.ilp import TOLERANCE, Budget, Problem, reach
from haqnas.search.study import Decision
from haqnas.space.knobs import WIDEST, Knob
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity

NUM_AGENTS = 4  # that layers are shared among, in graph order; credit is told by agent
NUM_FIRST = 12  # actions that a warm start gives, at most; half of the trials where that is less
NUM_SHARES = 6  # latencies at which the ILP is asked where there is no budget


@dataclass(frozen=True)
class Goal:
    """What is wanted: the least drop within `limits`, or without any the least latency within `max_drop`."""

    problem: Problem
    limits: Budget  # for prices, which may have to be tighter than what the user limits
    max_drop: float | None  # None: there are limits

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Those with a choice."""
        return tuple(knob for knob in self.problem.space.knobs if len(knob.choices) > 1)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Decisions that may interact: of layers one after the other."""
        return tuple((index, index + 1) for index in range(len(self.knobs) - 1))

    def decisions(self) -> tuple[Decision, ...]:
        """The bits of each layer that has a choice; neighbouring layers share an agent, which is called by them."""
        knobs = self.knobs
        size = -(-len(knobs) // NUM_AGENTS)
        groups = [knobs[start : start + size] for start in range(0, len(knobs), max(size, 1))]
        return tuple(
            Decision(knob.name, _span(group), tuple(map(str, knob.choices)))
            for group in groups
            for knob in group
        )

    def policy(self, action: Action) -> Policy:
        """The bits of every layer."""
        chosen = {
            layer: knob.choices[option]
            for knob, option in zip(self.knobs, action, strict=True)
            for layer in knob.layers
        }
        fixed = {layer: knob.choices[0] for knob in self.problem.space.knobs for layer in knob.layers}
        return Policy(WIDEST, {**fixed, **chosen})

    def action(self, policy: Policy) -> Action:
        """Inverse of `policy`, which has legal bits."""
        return tuple(knob.choices.index(policy.spec_of(knob.layers[0])) for knob in self.knobs)

    def price(self, action: Action) -> float:
        """Over budget above 1. Without a budget what is slower than uniform int8 is of no use."""
        costs, bits = self.costs(action)
        slack = 1 + TOLERANCE
        latency, size = costs.latency(bits) / slack, costs.size_bytes(bits) / slack
        if self.max_drop is not None:
            return latency / self.int8_latency
        return max(excess(latency, self.limits.latency), excess(size, self.limits.size_bytes))

    def loss(self, action: Action) -> float:
        """Predicted, in nats a sample."""
        return self.problem.loss(self.policy(action))

    def latency(self, action: Action) -> float:
        costs, bits = self.costs(action)
        return costs.latency(bits)

    def share(self, action: Action) -> float:
        """Of the latency of uniform int8."""
        return self.latency(action) / self.int8_latency

    def score(self, action: Action, drop: float) -> float:
        """Higher is better: less drop; where that is limited, less latency, any policy within before all beyond."""
        if self.max_drop is None:
            return -drop
        return -self.share(action) if drop <= self.max_drop else -1.0 - (drop - self.max_drop)

    @cached_property
    def int8_latency(self) -> float:
        return self.problem.latency(Policy(WIDEST))

    def costs(self, action: Action) -> tuple["Costs", Action]:
        """The costs of the network that the action is about, and the bits that it chooses."""
        return self._costs, action

    @cached_property
    def _costs(self) -> "Costs":
        return Costs.of(self)


def _span(group: Sequence[Knob]) -> str:
    first, last = group[0].name, group[-1].name
    return first if first == last else f"{first} to {last}"


@dataclass(frozen=True)
class Costs:
    """Costs of actions by sums of numbers: strategies ask for prices of ten thousands of actions."""

    fixed: float
    options: tuple[tuple[float, ...], ...]  # latency, of each decision
    conversions: tuple[tuple[float, tuple[tuple[int, frozenset[int]], ...]], ...]
    fixed_bytes: int
    option_bytes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, goal: Goal) -> "Costs":
        problem, knobs = goal.problem, goal.knobs
        total, prices = problem.model.total, problem.prices
        options = tuple(
            tuple(sum(total(prices.layers[layer][spec]) for layer in knob.layers) for spec in knob.choices)
            for knob in knobs
        )
        option_bytes = tuple(
            tuple(sum(problem.sizes[layer][spec] for layer in knob.layers) for spec in knob.choices)
            for knob in knobs
        )
        conversions, settled = [], 0.0
        chosen = {layer for knob in knobs for layer in knob.layers}
        first = goal.policy((0,) * len(knobs))
        for conversion in prices.conversions:
            fixed_readers = conversion.readers - chosen
            if any(first.spec_of(name).act_bits == conversion.act_bits for name in fixed_readers):
                settled += total(conversion.cost)
                continue
            where = (
                (index, _options_at(knob, conversion.act_bits))
                for index, knob in enumerate(knobs)
                if conversion.readers & set(knob.layers)
            )
            conversions.append((total(conversion.cost), tuple(place for place in where if place[1])))
        rest = sum(
            total(by_spec[first.spec_of(name)])
            for name, by_spec in prices.layers.items()
            if name not in chosen
        )
        glue = sum(map(total, prices.glue.values()))
        bytes_rest = sum(
            by_spec[first.spec_of(name)] for name, by_spec in problem.sizes.items() if name not in chosen
        )
        return cls(
            settled + rest + glue,
            options,
            tuple(one for one in conversions if one[1]),
            problem.fixed_bytes + bytes_rest,
            option_bytes,
        )

    def latency(self, action: Action) -> float:
        """As `Problem.latency` of its policy, but for rounding."""
        layers = sum(row[option] for row, option in zip(self.options, action, strict=True))
        converted = sum(
            cost for cost, places in self.conversions if any(action[index] in at for index, at in places)
        )
        return self.fixed + layers + converted

    def size_bytes(self, action: Action) -> int:
        """Of all packed weights."""
        return self.fixed_bytes + sum(
            row[option] for row, option in zip(self.option_bytes, action, strict=True)
        )


def _options_at(knob: Knob, act_bits: int) -> frozenset[int]:
    return frozenset(index for index, spec in enumerate(knob.choices) if spec.act_bits == act_bits)


def make_goal(search: Search, budget: Budget, sensitivity: Sensitivity) -> tuple[Goal, Policy | None]:
    """The goal, and the ILP's answer to it; None without a budget, where its answer takes trials."""
    problem = problem_of(search, sensitivity.losses)
    if budget.latency is None and budget.size_bytes is None:
        allowed = search.budgets.max_drop
        return Goal(problem, budget, DEFAULT_MAX_DROP if allowed is None else allowed), None
    policy, _, limits = least_loss(problem, sensitivity, budget, search)
    return Goal(problem, limits, None), policy


def first_actions(
    goal: Goal, answer: Policy | None, sensitivity: Sensitivity, num_trials: int
) -> tuple[Action, ...]:
    """What a warm start begins with: answers of the ILP, uniform bits, then the answer with one layer changed.

    Changes go by predicted loss. Only what is within budget.
    """
    answers = [answer] if answer is not None else _answers_by_latency(goal, sensitivity)
    actions = [goal.action(policy) for policy in answers if policy is not None]
    actions += [_uniform(goal, spec) for spec in goal.problem.space.specs]
    probes = sorted(
        (
            (goal.problem.loss(goal.policy(other)), other)
            for start in actions[:1]
            for head, knob in enumerate(goal.knobs)
            for option in range(len(knob.choices))
            for other in [(*start[:head], option, *start[head + 1 :])]
        ),
    )
    actions += [action for _, action in probes]
    within = [action for action in dict.fromkeys(actions) if goal.price(action) <= 1]
    return tuple(within[: max(1, min(NUM_FIRST, num_trials // 2))])


def _answers_by_latency(goal: Goal, sensitivity: Sensitivity) -> list[Policy | None]:
    """Of least predicted loss at latencies from the least one to that of uniform int8; the middle ones first."""
    least = reach(goal.problem).latency[0]
    steps = [index / (NUM_SHARES - 1) for index in range(NUM_SHARES)]
    steps.sort(key=lambda step: abs(step - 0.5))
    limits = [least + step * (goal.int8_latency - least) for step in steps]
    return [policy_within(goal.problem, sensitivity, Budget(latency=limit)) for limit in limits]


def _uniform(goal: Goal, spec: QuantSpec) -> Action:
    """`spec` where it is legal, else the widest bits that are."""
    return tuple(knob.choices.index(spec) if spec in knob.choices else 0 for knob in goal.knobs)


def is_within(own: Own, budget: Budget) -> bool:
    """Whether what a policy's program takes is within the user's budget."""
    return excess(own.latency, budget.latency) <= 1 and excess(own.size_bytes, budget.size_bytes) <= 1
