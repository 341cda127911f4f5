"""HAQ's budget wall: all heads step down in turn, whatever that loses, until the action is within budget."""

from typing import TypeAlias

import numpy as np

from haqnas.search.actions import Price, random_action
from haqnas.search.critic import Action, Heads

Ladders: TypeAlias = tuple[Action, ...]  # the options of each head, the cheapest first

NUM_SAMPLES = 16


def ladders_of(heads: Heads, price: Price, rng: np.random.Generator) -> Ladders:
    """The options of each head in order of their mean price, over random choices of the other heads.

    HAQ's are bit-widths, whose order is known. Equal options keep the order in which they are given.
    """
    samples = [random_action(heads, rng) for _ in range(NUM_SAMPLES)]
    ladders = []
    for head, count in enumerate(heads.counts):
        means = [
            np.mean([price((*sample[:head], option, *sample[head + 1 :])) for sample in samples])
            for option in range(count)
        ]
        ladders.append(tuple(np.argsort(means, kind="stable").tolist()))
    return tuple(ladders)


def walled(ladders: Ladders, action: Action, price: Price) -> Action | None:
    """`action` brought within budget: from the last head to the first, each one step down; then the same again.

    Source: HAQ (Wang et al., CVPR 2019). None where not even the bottom of all ladders is within budget.
    """
    while price(action) > 1:
        start = action
        for head in reversed(range(len(ladders))):
            action = stepped_down(ladders, action, head)
            if price(action) <= 1:
                return action
        if action == start:
            return None
    return action


def stepped_down(ladders: Ladders, action: Action, head: int) -> Action:
    """`action` with the next cheaper option of `head`; the same at the bottom."""
    rung = ladders[head].index(action[head])
    return (*action[:head], ladders[head][max(rung - 1, 0)], *action[head + 1 :])
