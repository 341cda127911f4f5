"""HAQ's budget wall."""

import itertools

import numpy as np

from haqnas.search.critic import Head, Heads
from haqnas.search.wall import ladders_of, stepped_down, walled
from tests.search.problems import price_of
from tests.search.test_critic import EVERY, HEADS

IN_ORDER = tuple(tuple(range(count)) for count in HEADS.counts)


def test_from_the_last_head_to_the_first_each_steps_down_once_and_then_again():
    seen = []

    def price(action):
        seen.append(action)
        return sum(action) / 2

    assert walled(IN_ORDER, (2, 1, 3), price) == (1, 0, 1)
    assert list(dict.fromkeys(seen)) == [(2, 1, 3), (2, 1, 2), (2, 0, 2), (1, 0, 2), (1, 0, 1)]


def test_what_a_step_loses_or_saves_does_not_matter_only_whether_the_budget_is_met():
    def price(action):
        return 0.5 + action[0]  # only the first head costs anything

    assert walled(IN_ORDER, (1, 1, 3), price) == (0, 0, 2)


def test_it_stays_within_budget_and_gives_up_at_the_bottom():
    rng = np.random.default_rng(0)
    for limit, _ in itertools.product((0.2, 0.5, 0.8, 1.1), range(10)):
        price = price_of(HEADS.counts, limit, rng)
        for action in EVERY:
            found = walled(IN_ORDER, action, price)
            if price((0, 0, 0)) > 1:
                assert found is None or (found == action and price(action) <= 1)
                continue
            assert price(found) <= 1
            assert walled(IN_ORDER, found, price) == found
            if price(action) <= 1:
                assert found == action


def test_ladders_go_from_cheap_to_dear_whatever_the_order_of_options():
    heads = Heads((Head("a", "ARCH", 3), Head("b", "ARCH", 1), Head("c", "ARCH", 4)), ())
    costs = ((2.0, 1.0, 3.0), (1.0,), (4.0, 1.0, 1.0, 0.0))

    def price(action):
        return sum(cost[option] for cost, option in zip(costs, action, strict=True))

    ladders = ladders_of(heads, price, np.random.default_rng(0))
    assert ladders == ((1, 0, 2), (0,), (3, 1, 2, 0))
    assert stepped_down(ladders, (2, 0, 3), 0) == (0, 0, 3)
    assert stepped_down(ladders, (2, 0, 3), 2) == (2, 0, 3)  # at the bottom
    assert ladders_of(Heads((), ()), price, np.random.default_rng(0)) == ()
