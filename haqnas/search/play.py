"""One worker of a study: ask a strategy, claim, evaluate, store how it went, and tell.

A strategy is made anew by every run. It is asked and told again what the storage holds, in the order of trials'
numbers, so that a run of one worker that was killed goes on as though it had not been.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from haqnas.errors import HaqnasError
from haqnas.search.agents import shapley_credit, uniform
from haqnas.search.critic import Action, Heads, Prior
from haqnas.search.marl import critic_of
from haqnas.search.strategy import Strategy, Task, Trial, load_strategy
from haqnas.search.study import Facts, Fidelity, Record, Study

Stopped: TypeAlias = Literal["trials", "space", "time", "interrupted"]


@dataclass(frozen=True, slots=True)
class Result:
    """What an evaluation gave: a score, higher is better, and facts to be stored beside it (JSON values)."""

    score: float
    facts: Facts


@dataclass(frozen=True)
class Game:
    """What is searched, and by what. `evaluate` gives the same for the same action, in any process.

    `known` are facts that are stored before an action is evaluated, such as its latency.
    """

    strategy: str
    task: Task
    seed: int
    fidelity: Fidelity
    known: Callable[[Action], Facts]
    evaluate: Callable[[Action], Result]
    begin_worker: Callable[[], None] = lambda: None  # called first in each process that is forked


@dataclass(frozen=True, slots=True)
class Stop:
    """When to end before all trials are done; both are asked between trials."""

    deadline_s: float | None  # of time.monotonic
    is_interrupted: Callable[[], bool]

    def reason(self, records: Sequence[Record]) -> Stopped | None:
        """None: go on. Until a first trial is done there is nothing to end with, so that time alone does not end it."""
        if self.is_interrupted():
            return "interrupted"
        is_late = self.deadline_s is not None and time.monotonic() >= self.deadline_s
        return "time" if is_late and any(record.state == "done" for record in records) else None


def play(
    study: Study, game: Game, worker: int, stop: Stop, tell: Callable[[tuple[Record, ...]], None]
) -> Stopped:
    """Evaluate until all trials are claimed, the space is used up, or `stop` says so; `tell` is called after each."""
    player = None
    limit = game.task.num_trials
    while True:
        records = study.records()
        reason = stop.reason(records)
        if reason is not None:
            return reason
        record = study.take_over(limit)
        if record is None:
            if len(records) >= limit:
                return "trials"
            player = player or _Player(game, worker)
            player.catch_up(records)
            action = player.ask()
            if action is None:
                return "space"
            record = study.claim(action, _facts_before(game, worker, action), limit)
            if record is None:
                player.forget(action)
                continue
            player.asked.add(record.number)
        _evaluate(study, game, record)
        tell(study.records())


class _Player:
    """A strategy, and how much of the study it has seen."""

    def __init__(self, game: Game, worker: int) -> None:
        rng = np.random.default_rng([game.seed, worker])
        self.strategy: Strategy = load_strategy(game.strategy)(game.task, rng)
        self.worker = worker
        self.asked: set[int] = set()
        self.told: set[int] = set()

    def ask(self) -> Action | None:
        return self.strategy.ask()

    def forget(self, action: Action) -> None:
        self.strategy.seen -= {action}

    def catch_up(self, records: Sequence[Record]) -> None:
        """Ask for what this worker asked for in an earlier run, and tell what is new."""
        for record in records:
            if record.number not in self.asked:
                self.asked.add(record.number)
                again = self.ask() if record.facts.get("worker") == self.worker else None
                if (
                    again is not None and again != record.action
                ):  # with several workers, what was told in between differs
                    self.forget(again)
                self.strategy.seen |= {record.action}
            if record.is_finished and record.number not in self.told:
                self.told.add(record.number)
                self.strategy.tell(Trial(record.action, record.score))


def _facts_before(game: Game, worker: int, action: Action) -> dict[str, Any]:
    return {
        "strategy": game.strategy,
        "seed": game.seed,
        "worker": worker,
        "fidelity": game.fidelity,
        **game.known(action),
    }


def _evaluate(study: Study, game: Game, record: Record) -> None:
    """A failed evaluation is a result, too."""
    with study.alive(record):
        try:
            result = game.evaluate(record.action)
        except HaqnasError as error:
            study.finish(
                record, None, {"failure": str(error), "failure_code": error.code, "reason": "failed"}
            )
            return
    if not math.isfinite(result.score):
        failure = f"the score is {result.score}, not a number that can be compared"
        study.finish(record, None, {**_storable(result.facts), "failure": failure, "reason": "failed"})
        return
    trials = [*trials_of(study.records()), Trial(record.action, result.score)]
    credit = credit_of(game.task.heads, trials, record.action)
    reason = _reason(study.records(), record, result.score, credit)
    study.finish(record, result.score, {**result.facts, "credit": dict(credit), "reason": reason})


def _storable(facts: Facts) -> dict[str, Any]:
    """Databases refuse JSON with NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def trials_of(records: Sequence[Record]) -> list[Trial]:
    """Those that are finished, as strategies are told them."""
    return [Trial(record.action, record.score) for record in records if record.is_finished]


def best_of(records: Sequence[Record]) -> Record | None:
    """The greatest score, the first among equals; None where no trial is done."""
    done = [record for record in records if record.score is not None]
    return max(done, key=lambda record: (record.score, -record.number), default=None)


def credit_of(heads: Heads, trials: Sequence[Trial], action: Action) -> Mapping[str, float]:
    """What each agent's choices add to the score of `action`, against choices by chance, as the critic sees it.

    The critic is that of all `trials`; Shapley values in units of the score.
    """
    critic = critic_of(heads, trials, Prior())
    found = shapley_credit(critic.mean(), uniform(heads), action, heads)
    scores = [trial.score for trial in trials if trial.score is not None]
    scale = critic.scale if min(scores) < max(scores) else 0.0  # equal scores say nothing of anybody
    return {agent: value * scale for agent, value in found.items()}


def _reason(records: Sequence[Record], record: Record, score: float, credit: Mapping[str, float]) -> str:
    """One line on what the trial is good for."""
    others = [other for other in records if other.number != record.number]
    best = best_of(others)
    if best is None or best.score is None:
        place = "the first that is done"
    elif score > best.score:
        place = f"best so far, {score - best.score:.4g} above trial {best.number}"
    else:
        place = f"{best.score - score:.4g} below trial {best.number}"
    agent = max(credit, key=lambda name: abs(credit[name]), default=None)
    return place if agent is None else f"{place}; most by {agent}: {credit[agent]:+.4g}"
