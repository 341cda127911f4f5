"""The nearest allowed action."""

import numpy as np
import pytest

from haqnas.search import actions
from haqnas.search.actions import nearest, neighbours, random_allowed
from haqnas.search.critic import Head, Heads
from tests.search.problems import price_of
from tests.search.test_critic import EVERY, HEADS

LARGE = Heads(tuple(Head(str(index), "QUANT", 4) for index in range(30)), ())


def changes(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_neighbours_differ_in_one_choice():
    assert sorted(neighbours(HEADS, EVERY[5])) == [other for other in EVERY if changes(other, EVERY[5]) == 1]


@pytest.mark.parametrize("seed", range(5))
def test_no_allowed_action_is_nearer(seed):
    rng = np.random.default_rng(seed)
    allowed = {EVERY[index] for index in rng.choice(len(EVERY), 3, replace=False)}
    for start in EVERY:
        found = nearest(HEADS, start, allowed.__contains__, lambda _: 0.5, rng)
        assert found in allowed
        assert changes(found, start) == min(changes(other, start) for other in allowed)


def test_where_nothing_is_allowed_nothing_is_found():
    rng = np.random.default_rng(0)
    assert nearest(HEADS, EVERY[0], lambda _: False, lambda _: 2.0, rng) is None
    assert random_allowed(HEADS, lambda _: False, rng) is None


def test_a_large_space_with_a_tight_budget(monkeypatch):
    monkeypatch.setattr(actions, "LARGE", 2000)
    rng = np.random.default_rng(1)
    price = price_of(LARGE.counts, 0.45, rng)
    assert random_allowed(LARGE, lambda action: price(action) <= 1, rng) is None  # chance does not get there
    found = nearest(LARGE, None, lambda action: price(action) <= 1, price, rng)
    assert found is not None
    assert price(found) <= 1
    assert nearest(LARGE, None, lambda _: False, lambda _: 2.0, rng) is None
