"""What every registered strategy has to keep to."""

import itertools
from functools import cache

import numpy as np
import pytest

from haqnas.errors import ConfigurationError
from haqnas.search.critic import Head, Heads
from haqnas.search.strategy import GROUP, Strategy, Task, Trial, known_strategies, load_strategy
from tests.distribution import install
from tests.search.problems import price_of
from tests.search.test_critic import EVERY, HEADS

NAMES = sorted(known_strategies())
OURS = [
    "evolution",
    "gp",
    "haq",
    "marl",
    "marl-haq-wall",
    "marl-no-credit",
    "marl-on-policy",
    "marl-sequential",
    "mdenas",
    "nsga2",
    "proxyless",
    "random",
    "surrogate",
    "tpe",
]
NOT_LEARNING = {"random"}
SLOW = {"gp"}  # a tenth of a second for each proposal
LEARNS_IN = {"gp": (30, 2), "tpe": (60, 2), "nsga2": (60, 2)}  # evaluations and seeds; the others: 100 and 4

every_strategy = pytest.mark.parametrize("name", NAMES)

MANY = Heads(
    tuple(Head(f"bits{index}", "QUANT", 3) for index in range(8)), tuple((k, k + 1) for k in range(7))
)


def make(name, heads, price, num_trials, seed=0):
    return load_strategy(name)(Task(heads, price, num_trials), np.random.default_rng(seed))


def play(strategy, reward, count):
    """So many trials, or fewer where the space is used up."""
    trials = []
    while len(trials) < count and (action := strategy.ask()) is not None:
        trials.append(Trial(action, reward(action)))
        strategy.tell(trials[-1])
    return trials


def unlucky(action):
    """Rewards of which a third are failures of each kind."""
    return (None, float("nan"), float("-inf"), *map(float, range(6)))[
        sum(3**k * c for k, c in enumerate(action)) % 9
    ]


def test_all_of_ours_are_registered():
    assert set(OURS) <= set(NAMES)


@every_strategy
def test_it_asks_for_new_actions_within_budget_through_failures_and_the_same_again(name):
    price = price_of(MANY.counts, 0.6, np.random.default_rng(3))
    count = 14 if name in SLOW else 60
    trials = play(make(name, MANY, price, count, 7), unlucky, count)
    actions = [trial.action for trial in trials]
    assert len(set(actions)) == len(actions) == count
    assert all(price(action) <= 1 for action in actions)
    assert [t.action for t in play(make(name, MANY, price, count, 7), unlucky, count)] == actions
    assert [t.action for t in play(make(name, MANY, price, count, 8), unlucky, count)] != actions


@every_strategy
@pytest.mark.parametrize(
    "reward", [unlucky, lambda _: None, lambda _: 1.0], ids=["some fail", "all fail", "equal"]
)
def test_it_uses_up_a_small_space_exactly(name, reward):
    heads = Heads(HEADS.heads[:2], ((0, 1),)) if name in SLOW else HEADS
    every = {action[: len(heads.heads)] for action in EVERY}
    allowed = {action for action in every if action[0] + action[1] <= 2}
    strategy = make(name, heads, lambda action: (action[0] + action[1]) / 2, 100)
    assert {trial.action for trial in play(strategy, reward, 1000)} == allowed
    assert strategy.ask() is None


@every_strategy
def test_a_budget_nobody_can_meet_asks_for_nothing(name):
    assert make(name, HEADS, lambda _: 2.0, 10).ask() is None


@every_strategy
def test_a_price_that_is_no_number_is_over_budget(name):
    assert make(name, HEADS, lambda _: float("nan"), 10).ask() is None


@every_strategy
@pytest.mark.parametrize("counts", [(), (1,), (1, 1, 1)])
def test_a_single_choice_is_asked_for_once(name, counts):
    strategy = make(
        name, Heads(tuple(Head(str(k), "ARCH", n) for k, n in enumerate(counts)), ()), lambda _: 1.0, 10
    )
    assert [trial.action for trial in play(strategy, lambda _: 1.0, 10)] == [(0,) * len(counts)]


def test_a_head_without_options_is_refused():
    with pytest.raises(ConfigurationError, match="nothing can be chosen for width"):
        Task(Heads((Head("width", "ARCH", 0),), ()), lambda _: 1.0, 10)


@every_strategy
def test_what_others_evaluate_is_not_asked_for_and_asking_twice_gives_two_actions(name):
    strategy = make(name, HEADS, lambda _: 1.0, 20)
    for action in EVERY[:12]:
        strategy.tell(Trial(action, float(sum(action))))
    asked = [strategy.ask() for _ in range(3)]  # three workers
    assert len({*asked, *EVERY[:12]}) == 15
    for action in asked:
        strategy.tell(Trial(action, None))
    assert strategy.ask() in set(EVERY) - {*asked, *EVERY[:12]}


@cache
def problem(seed):
    """Options of each head are worth something by themselves; the budget allows about a third."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=(8, 3))
    price = price_of(MANY.counts, 0.6, rng)

    def reward(action):
        return float(worth[np.arange(8), action].sum())

    return reward, price, max(reward(a) for a in itertools.product(range(3), repeat=8) if price(a) <= 1)


@cache
def mean_regret(name, count, seeds):
    regrets = []
    for seed in range(seeds):
        reward, price, best = problem(seed)
        regrets.append(
            best - max(trial.reward for trial in play(make(name, MANY, price, count, seed), reward, count))
        )
    return np.mean(regrets)


@every_strategy
def test_it_learns_what_random_search_does_not(name):
    if name in NOT_LEARNING:
        assert mean_regret(name, 100, 4) > 0
        return
    count, seeds = LEARNS_IN.get(name, (100, 4))
    assert mean_regret(name, count, seeds) < 0.75 * mean_regret("random", count, seeds)


def test_unknown_name_lists_those_that_are_known():
    with pytest.raises(
        ConfigurationError, match="unknown strategy 'annealing'; known are evolution, gp, haq, marl"
    ):
        load_strategy("annealing")


STRATEGY = """
from haqnas.search.strategy import Strategy

class Backwards(Strategy):
    def propose(self):
        return tuple(head.count - 1 for head in self.task.heads.heads)

    def learn(self, trial):
        pass
"""


def test_another_distribution_adds_a_strategy(tmp_path, monkeypatch):
    install(tmp_path, "my_search_a", GROUP, "backwards = my_search_a:Backwards", STRATEGY)
    monkeypatch.syspath_prepend(str(tmp_path))
    strategy = make("backwards", HEADS, lambda _: 1.0, 100)
    assert isinstance(strategy, Strategy)
    assert strategy.ask() == (2, 1, 3)
    assert {trial.action for trial in play(strategy, lambda _: 1.0, 100)} == set(EVERY) - {(2, 1, 3)}


def test_strategies_that_cannot_be_used_say_why(tmp_path, monkeypatch):
    install(tmp_path / "one", "my_search_b", GROUP, "forwards = my_search_b:nothing", STRATEGY)
    monkeypatch.syspath_prepend(str(tmp_path / "one"))
    with pytest.raises(ConfigurationError, match="my_search_b:nothing, cannot be loaded"):
        load_strategy("forwards")
    install(tmp_path / "two", "my_search_c", GROUP, "random = my_search_c:Backwards", STRATEGY)
    monkeypatch.syspath_prepend(str(tmp_path / "two"))
    with pytest.raises(ConfigurationError, match="'random' is claimed twice"):
        load_strategy("random")
