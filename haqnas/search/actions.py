"""Actions by themselves: neighbours, and the nearest one that is allowed."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from haqnas.search.critic import Action, Heads

Price: TypeAlias = Callable[[Action], float]  # over budget above 1
Test: TypeAlias = Callable[[Action], bool]

LARGE = 1 << 16  # so many actions are looked through one by one, not more
DRAWS = 1000
DESCENTS = 200  # of random actions, in larger spaces


def random_action(heads: Heads, rng: np.random.Generator) -> Action:
    """Any, each as likely as the others."""
    return tuple(rng.integers(heads.counts).tolist()) if heads.heads else ()


def random_allowed(heads: Heads, is_allowed: Test, rng: np.random.Generator) -> Action | None:
    """An allowed action, each as likely as the others; None where DRAWS found none."""
    return next(filter(is_allowed, (random_action(heads, rng) for _ in range(DRAWS))), None)


def neighbours(heads: Heads, action: Action) -> list[Action]:
    """All actions that differ in one choice."""
    return [
        (*action[:head], option, *action[head + 1 :])
        for head, count in enumerate(heads.counts)
        for option in range(count)
        if option != action[head]
    ]


def nearest(
    heads: Heads, start: Action | None, is_allowed: Test, price: Price, rng: np.random.Generator
) -> Action | None:
    """An allowed action with the fewest changes from `start` (None: any action), by chance among equals.

    None where no action is allowed. Where there are more than LARGE, only so many of the nearest are looked at, then
    cheaper neighbours of random actions: None may be wrong there.
    """
    ring = [random_action(heads, rng) if start is None else start]
    visited = set(ring)
    while ring and len(visited) <= LARGE:
        allowed = [action for action in ring if is_allowed(action)]
        if allowed:
            return allowed[rng.integers(len(allowed))]
        wider = {other for action in ring for other in neighbours(heads, action)} - visited
        ring = sorted(wider)
        visited |= wider
    if len(visited) >= math.prod(heads.counts):
        return None
    descents = (_made_cheaper(heads, random_action(heads, rng), price, rng) for _ in range(DESCENTS))
    return next(filter(is_allowed, descents), None)


def _made_cheaper(heads: Heads, action: Action, price: Price, rng: np.random.Generator) -> Action:
    """By random changes that save something, until the action is within budget or nothing saves."""
    cost = price(action)
    while cost > 1:
        cheaper = [other for other in neighbours(heads, action) if price(other) < cost]
        if not cheaper:
            break
        action = cheaper[rng.integers(len(cheaper))]
        cost = price(action)
    return action
