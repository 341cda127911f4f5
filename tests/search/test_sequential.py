"""One agent after the other."""

import numpy as np

from haqnas.search.critic import Head, Heads
from haqnas.search.strategies.marl import Marl
from haqnas.search.strategies.sequential import Sequential, ordered_agents
from haqnas.search.strategy import Task
from tests.search.problems import price_of
from tests.search.test_strategies import MANY, play

AGENTS = ("QUANT", "QUANT", "HPO", "ARCH", "ARCH", "MINE")
HEADS = Heads(tuple(Head(str(k), agent, 4) for k, agent in enumerate(AGENTS)), ((0, 1), (1, 3), (3, 4)))
RNG = np.random.default_rng(0)
WORTH = RNG.normal(size=(6, 4))


def reward(action):
    return float(WORTH[np.arange(6), action].sum())


def searched(price, num_trials, seed=0):
    return play(Sequential(Task(HEADS, price, num_trials), np.random.default_rng(seed)), reward, num_trials)


def test_agents_have_their_order_and_others_follow():
    assert ordered_agents(HEADS) == ("ARCH", "QUANT", "HPO", "MINE")


def test_only_one_agents_heads_move_and_the_earlier_ones_stay_at_the_best_found():
    trials = searched(lambda _: 1.0, 28)  # 7 trials each, but HPO and MINE have only 3 new actions
    actions = [trial.action for trial in trials]
    assert all(action[:3] == (0, 0, 0) and action[5] == 0 for action in actions[:7])
    best = max(trials[:7], key=lambda trial: trial.reward).action
    assert all(action == (*action[:2], 0, *best[3:]) for action in actions[7:14])
    best = max(trials[:14], key=lambda trial: trial.reward).action
    assert actions[14:17] == [(*best[:2], *action[2:3], *best[3:]) for action in actions[14:17]]
    assert {action[2] for action in actions[14:17]} == {1, 2, 3}
    best = max(trials[:17], key=lambda trial: trial.reward).action
    assert {action[:5] for action in actions[17:20]} == {best[:5]}
    assert len(set(actions)) == 28  # then any new action


def test_a_first_option_over_budget_steps_down_so_that_the_first_agent_can_move():
    def price(action):  # option 0 is the dearest, as the most bits are
        return sum(3 - option for option in action) / 15

    trials = searched(price, 28)
    assert all(price(trial.action) <= 1 for trial in trials)
    others = {(*trial.action[:3], trial.action[5]) for trial in trials[:7]}
    assert others == {(0, 0, 0, 0)}  # 12 / 15 with the cheapest of both heads of ARCH
    tight = searched(lambda action: price(action) * 2, 28)
    others = {(*trial.action[:3], trial.action[5]) for trial in tight[:1]}
    assert others == {(1, 1, 1, 2)}


def test_one_agent_is_marl():
    price = price_of(MANY.counts, 0.6, np.random.default_rng(3))
    task = Task(MANY, price, 30)

    def actions(kind):
        return [t.action for t in play(kind(task, np.random.default_rng(5)), lambda a: -float(sum(a)), 30)]

    assert actions(Sequential) == actions(Marl)


def test_it_goes_on_from_the_best_of_the_tasks_first_actions():
    best = tuple(WORTH.argmax(1).tolist())
    first = ((0, 0, 0, 0, 0, 0), (*best[:3], 0, 0, best[5]))
    trials = play(Sequential(Task(HEADS, lambda _: 1.0, 28, first), np.random.default_rng(0)), reward, 7)
    assert tuple(trial.action for trial in trials[:2]) == first
    assert {(*trial.action[:3], trial.action[5]) for trial in trials[2:]} == {(*best[:3], best[5])}
