"""Bits by trials: a strategy proposes policies, their accuracy is read, and a study keeps how each of them did."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from haqnas.bit_goal import Goal, first_actions, is_within, make_goal
from haqnas.bit_search import ILP, Found, Judge, Own, Search, describe, excess, lowered, search_bits
from haqnas.errors import ConfigurationError, InfeasibleBudgetError, error_class
from haqnas.search.critic import Action, Heads
from haqnas.search.ilp import Budget
from haqnas.search.play import Game, Result, Stop, best_of, credit_of, trials_of
from haqnas.search.state import Best, SearchState, Tell
from haqnas.search.strategy import Task
from haqnas.search.study import JOURNAL, Facts, Place, Record, Study, heads_of
from haqnas.search.workers import interruptible, play_all
from haqnas.space.architecture import Architecture
from haqnas.space.outcome import Compared, Finalist
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity

NUM_TRIALS = 100  # where the user gives no number
MOST_LOWERED = 20  # of the best policies, until the program of one is within budget


@dataclass(frozen=True, slots=True)
class Plan:
    """How the trials are made. The answer of the first of the strategies is compiled, the others are for comparison."""

    strategies: tuple[str, ...]
    num_trials: int
    time_budget_s: float | None  # of all strategies together
    num_workers: int
    url: str | None  # of the studies' database; None: a journal in `folder`
    folder: Path
    name: str  # of the studies, before the strategy's
    owner: str  # whose trials of a database are whose
    seed: int
    num_finalists: int = 1  # the best policies, that are told


@dataclass(frozen=True, slots=True)
class Played:
    """What the trials are about: actions, where to begin, how the drop of an action is read, and what it takes."""

    goal: Goal
    first: tuple[Action, ...]
    drop_of: Callable[[Action], float]
    own_of: Callable[[Action], Own]  # by its own program
    architecture_of: Callable[[Action], Architecture | None]


@dataclass(frozen=True, slots=True)
class _Given:
    """What all strategies get."""

    search: Search
    budget: Budget
    sensitivity: Sensitivity
    judge: Judge
    plan: Plan
    tell: Tell
    played: Played
    heads: Heads
    float_score: float

    @property
    def goal(self) -> Goal:
        return self.played.goal


def play_bits(search: Search, budget: Budget, sensitivity: Sensitivity, judge: Judge, plan: Plan) -> Played:
    """Trials of bits alone."""
    goal, answer = make_goal(search, budget, sensitivity)
    return Played(
        goal,
        first=first_actions(goal, answer, sensitivity, plan.num_trials),
        drop_of=lambda action: judge.drop_of(goal.policy(action)),
        own_of=lambda action: lowered(search, goal.policy(action)),
        architecture_of=lambda _: None,
    )


def search_by_trials(
    search: Search,
    budget: Budget,
    sensitivity: Sensitivity,
    judge: Judge,
    plan: Plan,
    tell: Tell,
    joint: Played | None = None,
) -> Found:
    """The best policy of the first strategy's trials, and how the others did; `joint`: of more than bits.

    Trials that fail are results. Ctrl-C ends with the best so far. Raises KeyboardInterrupt where there is none yet,
    the error of the first trial where all failed, ConfigurationError where the study's storage fails.
    """
    played = joint or play_bits(search, budget, sensitivity, judge, plan)
    goal = played.goal
    if not goal.decisions():
        return search_bits(search, budget, sensitivity, judge, tell)  # there is nothing to choose
    given = _Given(
        *(search, budget, sensitivity, judge, plan, tell, played),
        heads=heads_of(goal.decisions(), goal.pairs),
        float_score=judge.float_score(),  # before workers are forked
    )
    end_s = None if plan.time_budget_s is None else time.monotonic() + plan.time_budget_s
    place = Place(plan.folder / JOURNAL, plan.url, plan.owner)
    found: list[tuple[Found | None, Compared]] = []
    studies: list[Study] = []
    with interruptible(tell) as is_interrupted:
        for strategy in plan.strategies:
            if strategy == ILP:
                found.append(_by_ilp(given))
            else:
                study = Study(place, f"{plan.name} {strategy}", goal.decisions())
                studies.append(study)
                left = len(plan.strategies) - len(found)
                stop = Stop(deadline(study, plan, end_s, left), is_interrupted)
                found.append(_by_trials(given, strategy, study, stop))
            if is_interrupted():
                break
        was_interrupted = is_interrupted()
    chosen = found[0][0]
    if chosen is None:
        raise KeyboardInterrupt
    compared = tuple(row for _, row in found) if len(plan.strategies) > 1 else ()
    stopped = "interrupted" if was_interrupted else chosen.record.stopped
    record = replace(chosen.record, compared=compared, stopped=stopped)
    others = tuple(replace(one, record=replace(one.record, stopped=stopped)) for one in chosen.others)
    journal = _journal(plan, studies)
    for study in studies:
        study.close()
    return replace(chosen, record=record, others=others, study=journal)


def deadline(study: Study, plan: Plan, end_s: float | None, num_left: int) -> float | None:
    """The time that is left is shared by the strategies that are left; trials of earlier runs have had theirs."""
    if end_s is None:
        return None
    spent_s = sum(record.duration_s for record in study.records()) / plan.num_workers
    now_s = time.monotonic()
    return now_s + max(0.0, end_s - now_s) / num_left - spent_s


def _by_ilp(given: _Given) -> tuple[Found, Compared]:
    started_s = time.monotonic()
    found = search_bits(given.search, given.budget, given.sensitivity, given.judge, given.tell)
    record = found.record
    drop = given.judge.drop_of(found.policy) if record.drop is None else record.drop
    row = Compared(
        strategy=ILP,
        drop=drop,
        predicted_latency=record.predicted_latency,
        packed_weight_bytes=record.packed_weight_bytes,
        num_policies=max(1, record.num_policies),
        num_failed=0,
        time_s=time.monotonic() - started_s,
    )
    return found, row


def _by_trials(given: _Given, strategy: str, study: Study, stop: Stop) -> tuple[Found | None, Compared]:
    """None: interrupted before anything was done, or, of a strategy that others are compared with, all failed."""
    plan, goal = given.plan, given.goal
    task = Task(given.heads, goal.price, plan.num_trials, given.played.first)
    game = Game(
        *(strategy, task, plan.seed, "ptq", _known(given), _evaluate(given)),
        begin_worker=lambda: torch.set_num_threads(1),  # the pool of threads does not survive a fork
    )
    tell = teller(strategy, plan.num_trials, study.records(), stop.deadline_s, given.tell)
    records, stopped = play_all(study, game, plan.num_workers, stop, tell)
    num_failed = sum(record.state == "failed" for record in records)
    row = Compared(
        strategy, None, None, None, len(records), num_failed, sum(one.duration_s for one in records)
    )
    if best_of(records) is None:
        if stopped != "interrupted" and strategy == plan.strategies[0]:
            raise _nothing_done(strategy, records)
        return None, row

    def finalist(best: Record, policy: Policy, own: Own) -> Finalist:
        record = replace(
            describe(given.search, goal.problem, given.sensitivity, policy, own),
            strategy=strategy,
            predicted_loss=goal.loss(best.action),
            drop=float(best.facts["drop"]),
            judged_on=given.judge.judged_on,
            num_policies=len(records),
            num_failed=num_failed,
            num_trials=plan.num_trials,
            stopped=stopped,
            time_budget_s=plan.time_budget_s,
            fidelity=game.fidelity,
            seed=plan.seed,
            credit=dict(credit_of(given.heads, trials_of(records), best.action)),
        )
        return Finalist(policy, record, given.played.architecture_of(best.action))

    first, *others = (finalist(*one) for one in _best_within(given, records))
    record = first.record
    row = replace(
        row,
        drop=record.drop,
        predicted_latency=record.predicted_latency,
        packed_weight_bytes=record.packed_weight_bytes,
    )
    found = Found(
        *(first.policy, record, given.sensitivity), architecture=first.architecture, others=tuple(others)
    )
    return found, row


def _known(given: _Given) -> Callable[[Action], Facts]:
    def known(action: Action) -> Facts:
        return {
            "latency": given.goal.latency(action),
            "latency_unit": given.search.prices.unit,
            "latency_kind": "predicted",
            "latency_share": given.goal.share(action),
        }

    return known


def _evaluate(given: _Given) -> Callable[[Action], Result]:
    def evaluate(action: Action) -> Result:
        drop = given.played.drop_of(action)
        facts = {
            "accuracy": given.float_score - drop,
            "drop": drop,
            "judged_on": given.judge.judged_on,
        }
        return Result(given.goal.score(action, drop), facts)

    return evaluate


def _nothing_done(strategy: str, records: tuple[Record, ...]) -> Exception:
    if not records:
        return InfeasibleBudgetError(
            f"--strategy {strategy} found no bits within the budget, which is narrow; take --strategy ilp or marl, or "
            "loosen the budget"
        )
    facts = records[0].facts
    kind = error_class(str(facts.get("failure_code", ConfigurationError.code)))
    return kind(f"all {len(records)} policies that were tried failed; the first one: {facts.get('failure')}")


def _predicted_loss(given: _Given, record: Record) -> float:
    return given.goal.loss(record.action)


def _best_within(given: _Given, records: tuple[Record, ...]) -> list[tuple[Record, Policy, Own]]:
    """The best trials whose programs are within the user's budget too, else the one that is least over.

    As many as the plan wants, of different networks. Among equal scores, which a thousand samples often give, the least
    predicted loss.
    """
    done = sorted(
        (record for record in records if record.score is not None),
        key=lambda record: (-(record.score or 0.0), _predicted_loss(given, record), record.number),
    )
    within: dict[str, tuple[Record, Policy, Own]] = {}
    over: list[tuple[float, tuple[Record, Policy, Own]]] = []
    for record in done[:MOST_LOWERED]:
        if len(within) == given.plan.num_finalists:
            break
        policy = given.goal.policy(record.action)
        architecture = given.played.architecture_of(record.action)
        network = f"{policy.to_json()} {None if architecture is None else architecture.to_json()}"
        if network in within:
            continue
        own = given.played.own_of(record.action)
        if is_within(own, given.budget):
            within[network] = record, policy, own
        most = max(excess(own.latency, given.budget.latency), excess(own.size_bytes, given.budget.size_bytes))
        over.append((most, (record, policy, own)))
    return list(within.values()) or [min(over, key=lambda one: one[0])[1]]


def teller(
    strategy: str, total: int, before: tuple[Record, ...], deadline_s: float | None, note: Tell
) -> Callable[[tuple[Record, ...]], None]:
    """Tells the best so far, how far the search is, and what it will still take."""
    started_s = time.monotonic()
    num_before = sum(record.is_finished for record in before)

    def left_s(num: int) -> float | None:
        now_s = time.monotonic()
        if num == num_before:
            return None
        by_trials = (now_s - started_s) / (num - num_before) * (total - num)
        return by_trials if deadline_s is None else max(0.0, min(by_trials, deadline_s - now_s))

    def tell(records: tuple[Record, ...]) -> None:
        num = sum(record.is_finished for record in records)
        num_failed = sum(record.state == "failed" for record in records)
        state = SearchState(strategy, num, num_failed, total, left_s(num), _told(best_of(records)))
        note(state.describe(), state)

    return tell


def _told(best: Record | None) -> Best | None:
    if best is None:
        return None
    facts = best.facts
    return Best(facts["accuracy"], facts["drop"], facts.get("latency_share"), facts.get("credit", {}))


def _journal(plan: Plan, studies: list[Study]) -> Path | None:
    """The journal of all studies; what is kept in a database is copied."""
    path = plan.folder / JOURNAL
    if plan.url is not None:
        path.unlink(missing_ok=True)
        for study in studies:
            study.copy_to(path)
    return path if studies else None
