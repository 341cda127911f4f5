"""Bits by trials: goals of every kind of budget, what begins a search, what ends it, and what is kept."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from haqnas import bit_trials
from haqnas.bit_goal import Goal, first_actions
from haqnas.bit_search import Judge, Own, Search
from haqnas.bit_trials import Plan, search_by_trials
from haqnas.budgets import Budgets
from haqnas.errors import InfeasibleBudgetError, UnsupportedModelError
from haqnas.search.ilp import Budget, reach
from haqnas.search.study import JOURNAL, Place, Study
from haqnas.space.knobs import WIDEST
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from tests.search.problems import made_up_problem


class Made:
    """A made-up network whose drop is near the sum of its layers' losses."""

    def __init__(self, monkeypatch, folder, seed=3, max_drop=None, excess=1.0):
        self.problem = made_up_problem(seed, 7, 3)
        self.folder = folder
        self.excess = excess  # of programs over the sum of their layers' prices
        self.judged = []
        for module in ("haqnas.bit_search", "haqnas.bit_goal"):
            monkeypatch.setattr(f"{module}.problem_of", lambda _search, _losses: self.problem)
        for module in ("haqnas.bit_search", "haqnas.bit_trials"):
            monkeypatch.setattr(f"{module}.lowered", lambda _search, policy: self.own(policy))
        prices = type("Prices", (), {"unit": "s", "source": "made up"})()
        self.search = Search(self.problem.space, prices, Budgets(max_drop=max_drop), None, None)
        self.sensitivity = Sensitivity("gradient", 1, self.problem.losses, {})

    def own(self, policy):
        return Own(self.problem.latency(policy) * self.excess, self.problem.size_bytes(policy))

    def drop(self, policy):
        """Errors of neighbours add up by chance; the ILP does not know that."""
        self.judged.append(policy)
        loss = self.problem.loss(policy)
        narrow = sum(policy.spec_of(f"layer{k}").weight_bits < 8 for k in (2, 3, 4))
        return 0.01 * loss + 0.01 * (narrow > 1)

    def budget(self, share):
        """Between the least and the most latency."""
        least, most = reach(self.problem).latency
        return Budget(latency=least + share * (most - least))

    def plan(self, *strategies, **changes):
        plan = Plan(strategies, 30, None, 1, None, self.folder, "net", "tests", 0)
        return replace(plan, **changes)

    def find(self, plan, budget=None, drop=None, note=lambda *_: None):
        judge = Judge(drop or self.drop, lambda: 0.9, "made-up samples")
        return search_by_trials(self.search, budget or Budget(), self.sensitivity, judge, plan, note)


@pytest.fixture
def made(monkeypatch, tmp_path):
    return Made(monkeypatch, tmp_path)


def goal_of(made, budget, max_drop=None):
    return Goal(made.problem, budget, max_drop)


# Goals


def test_costs_of_actions_are_those_of_their_policies(made, rng):
    goal = goal_of(made, made.budget(0.4))
    counts = [len(knob.choices) for knob in goal.knobs]
    assert len(counts) == 6  # the last layer has no choice
    for _ in range(200):
        action = tuple(int(rng.integers(count)) for count in counts)
        policy = goal.policy(action)
        assert goal.action(policy) == action
        assert goal.latency(action) == pytest.approx(made.problem.latency(policy))
        assert goal.price(action) == pytest.approx(made.problem.latency(policy) / goal.limits.latency)
        both = goal_of(made, Budget(goal.limits.latency, 2000.0))
        wanted = max(goal.price(action), made.problem.size_bytes(policy) / 2000)
        assert both.price(action) == pytest.approx(wanted)


def test_decisions_are_in_words_and_neighbours_share_an_agent(made):
    goal = goal_of(made, made.budget(0.4))
    decisions = goal.decisions()
    assert [decision.name for decision in decisions] == [knob.name for knob in goal.knobs]
    assert decisions[0].options == ("w8a8", "w4a8", "w4a4", "w2a4")
    agents = [decision.agent for decision in decisions]
    assert agents == ["pair to layer2"] * 2 + ["layer3 to layer4"] * 2 + ["layer5 to layer6"] * 2
    assert goal.pairs == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))


def test_without_a_budget_any_policy_within_the_drop_is_before_all_beyond(made):
    goal = goal_of(made, Budget(), 0.01)
    slow, fast = (0,) * 6, (3,) * 6
    assert goal.score(fast, 0.01) > goal.score(slow, 0.0) > goal.score(fast, 0.0101) > goal.score(slow, 0.3)
    assert goal.price(slow) <= 1.0  # uniform int8 itself


def test_first_actions_are_within_budget_and_begin_with_the_ilps(made):
    goal = goal_of(made, made.budget(0.5))
    from haqnas.bit_search import policy_within

    answer = policy_within(made.problem, made.sensitivity, goal.limits)
    first = first_actions(goal, answer, made.sensitivity, 100)
    assert first[0] == goal.action(answer)
    assert len(first) == len(set(first)) == 12
    assert all(goal.price(action) <= 1 for action in first)
    assert len(first_actions(goal, answer, made.sensitivity, 8)) == 4
    without = goal_of(made, Budget(), 0.01)
    shares = [without.share(a) for a in first_actions(without, None, made.sensitivity, 100)[:4]]
    assert max(shares) - min(shares) > 0.1


# What is found


def best_by_hand(made, goal, key):
    counts = [range(len(knob.choices)) for knob in goal.knobs]
    within = [action for action in itertools.product(*counts) if goal.price(action) <= 1]
    return max(key(action) for action in within)


@pytest.mark.parametrize("strategy", ["marl", "tpe", "random"])
def test_trials_find_what_the_ilp_does_not_know(made, strategy):
    budget = made.budget(0.5)
    found = made.find(made.plan(strategy, "ilp", num_trials=60), budget)
    record = found.record
    assert made.problem.latency(found.policy) <= budget.latency * (1 + 1e-9)
    assert (record.strategy, record.num_policies, record.num_trials) == (strategy, 60, 60)
    assert (record.stopped, record.seed, record.fidelity) == ("trials", 0, "ptq")
    assert record.judged_on == "made-up samples"
    assert record.drop == pytest.approx(made.drop(found.policy))
    assert len(record.credit) == 3
    own, ilp = record.compared
    assert (own.strategy, own.drop, own.num_policies) == (strategy, record.drop, 60)
    assert (ilp.strategy, ilp.num_policies) == ("ilp", 1)
    if strategy == "marl":
        goal = goal_of(made, budget)
        best = best_by_hand(made, goal, lambda action: -made.drop(goal.policy(action)))
        assert record.drop < ilp.drop
        assert -record.drop > best - 0.003


def test_marl_without_a_budget_finds_nearly_the_fastest_within_the_drop(monkeypatch, tmp_path):
    made = Made(monkeypatch, tmp_path, max_drop=0.03)
    found = made.find(made.plan("marl", num_trials=80))
    goal = goal_of(made, Budget(), 0.03)
    assert found.record.drop <= 0.03
    best = -best_by_hand(made, goal, lambda action: goal.score(action, made.drop(goal.policy(action))))
    assert made.problem.latency(found.policy) / goal.int8_latency <= best + 0.06


def test_where_programs_take_more_than_their_layers_the_budget_is_still_met(monkeypatch, tmp_path):
    made = Made(monkeypatch, tmp_path, excess=1.04)
    budget = made.budget(0.5)
    found = made.find(made.plan("marl"), budget)
    assert found.record.predicted_latency <= budget.latency


def test_the_next_best_policies_are_told_where_they_are_wanted(made):
    budget = made.budget(0.5)
    alone = made.find(made.plan("marl"), budget)
    assert alone.others == ()
    found = made.find(made.plan("marl", num_finalists=4), budget)
    assert (found.policy, found.record) == (alone.policy, alone.record)
    policies = [found.policy, *(other.policy for other in found.others)]
    assert len({policy.to_json() for policy in policies}) == 4
    assert all(made.problem.latency(policy) <= budget.latency * (1 + 1e-9) for policy in policies)
    drops = [found.record.drop, *(other.record.drop for other in found.others)]
    assert drops == sorted(drops)
    assert drops == pytest.approx([made.drop(policy) for policy in policies])
    assert {other.record.stopped for other in found.others} == {"trials"}
    one = Budget(latency=reach(made.problem).latency[0] * (1 + 1e-9))
    plan = made.plan("marl", num_finalists=4, folder=_made(made.folder / "one"))
    assert made.find(plan, one).others == ()


def test_notes_tell_the_best_so_far_and_the_time_left(made):
    told = []
    found = made.find(made.plan("marl"), made.budget(0.5), note=lambda *of: told.append(of))
    assert [state.num_done for _, state in told] == list(range(1, 31))
    line, last = told[-1]
    assert (last.strategy, last.num_trials, last.num_failed, last.left_s) == ("marl", 30, 0, 0.0)
    assert last.best.drop == found.record.drop
    assert dict(last.best.credit).keys() == dict(found.record.credit).keys()
    assert line == last.describe()


# Ends


def test_failures_do_not_end_a_search_unless_all_fail(made):
    calls = itertools.count()

    def unlucky(policy):
        if next(calls) % 3 == 0:
            raise UnsupportedModelError("layer2 at w2a4 cannot be quantized")
        return float("nan") if next(calls) % 5 == 0 else made.drop(policy)

    found = made.find(made.plan("random"), made.budget(0.5), unlucky)
    assert 0 < found.record.num_failed < 30

    def failing(_policy):
        raise UnsupportedModelError("layer2 at w2a4 cannot be quantized")

    plan = made.plan("random", folder=made.folder / "all", num_trials=7)
    plan.folder.mkdir()
    with pytest.raises(
        UnsupportedModelError, match=r"all 7 policies that were tried failed; .* layer2 at w2a4"
    ):
        made.find(plan, made.budget(0.5), failing)


def test_all_scores_that_are_no_number_are_a_mistake_of_the_users_function(made):
    with pytest.raises(Exception, match=r"all 5 policies .* the score is nan") as caught:
        made.find(made.plan("random", num_trials=5), made.budget(0.5), lambda _: float("nan"))
    assert caught.value.exit_code == 2


def test_one_policy_within_budget_is_tried_once(made):
    found = made.find(made.plan("marl"), Budget(latency=reach(made.problem).latency[0] * (1 + 1e-9)))
    assert (found.record.num_policies, found.record.stopped) == (1, "space")


def test_without_a_choice_nothing_is_searched(made):
    knobs = tuple(replace(knob, choices=knob.choices[:1]) for knob in made.problem.space.knobs)
    space = replace(made.problem.space, knobs=knobs)
    made.problem = replace(made.problem, space=space)
    found = made.find(made.plan("marl"), Budget(latency=1e9))
    assert {found.policy.spec_of(name) for name in found.policy.layers} == {WIDEST}
    assert (found.record.num_trials, found.study, made.judged) == (None, None, [])


def test_a_strategy_that_finds_nothing_within_budget_says_so(made, monkeypatch):
    monkeypatch.setattr(bit_trials, "play_all", lambda *_: ((), "space"))
    with pytest.raises(InfeasibleBudgetError, match="--strategy random found no bits within the budget"):
        made.find(made.plan("random"), made.budget(0.5))


def test_ctrl_c_keeps_the_best_so_far_and_the_same_again_goes_on(made):
    whole = made.find(made.plan("marl", folder=_made(made.folder / "whole")), made.budget(0.5))

    def interrupting(policy):
        import os
        import signal

        if len(made.judged) - before == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return made.drop(policy)

    before = len(made.judged)
    cut = made.find(made.plan("marl"), made.budget(0.5), interrupting)
    assert (cut.record.stopped, cut.record.num_policies) == ("interrupted", 11)
    assert cut.record.drop >= whole.record.drop
    before = len(made.judged)
    again = made.find(made.plan("marl"), made.budget(0.5))
    assert len(made.judged) - before == 19
    assert (again.policy, again.record) == (whole.policy, whole.record)


def _made(folder):
    folder.mkdir()
    return folder


def test_a_time_budget_counts_what_earlier_runs_took(made):
    short = made.find(made.plan("random", time_budget_s=1e-9), made.budget(0.5))
    assert (short.record.stopped, short.record.num_policies) == ("time", 1)
    longer = made.find(made.plan("random", time_budget_s=1000.0), made.budget(0.5))
    assert (longer.record.stopped, longer.record.num_policies) == ("trials", 30)


# What is kept


def test_the_journal_holds_every_strategys_study(made):
    found = made.find(made.plan("marl", "random", "ilp", num_trials=12), made.budget(0.5))
    assert found.study == made.folder / JOURNAL
    goal = goal_of(made, made.budget(0.5))
    for name in ("marl", "random"):
        records = Study(Place(found.study, None, ""), f"net {name}", goal.decisions()).records()
        assert len(records) == 12
        facts = records[3].facts
        assert facts["accuracy"] == pytest.approx(0.9 - facts["drop"])
        assert (facts["latency_unit"], facts["latency_kind"]) == ("s", "predicted")
        assert facts["latency"] == pytest.approx(goal.latency(records[3].action))


def test_trials_of_a_database_are_copied_into_a_journal(made):
    url = f"sqlite:///{made.folder}/trials.db"
    one = made.find(made.plan("marl", url=url, num_trials=12), made.budget(0.5))
    two = made.find(
        made.plan("marl", url=url, num_trials=12, folder=_made(made.folder / "two"), owner="other"),
        made.budget(0.5),
    )
    assert len(made.judged) == 12  # the second command found all done
    assert (one.policy, one.record) == (two.policy, two.record)
    for found in (one, two):
        decisions = goal_of(made, made.budget(0.5)).decisions()
        assert len(Study(Place(found.study, None, ""), "net marl", decisions).records()) == 12


def test_workers_find_as_much(made):
    found = made.find(made.plan("marl", num_workers=2, num_trials=40), made.budget(0.5))
    assert (found.record.num_policies, found.record.stopped) == (40, "trials")
    assert made.judged == []  # in this process
    assert np.isfinite(found.record.drop)
    assert found.policy != Policy(WIDEST)
