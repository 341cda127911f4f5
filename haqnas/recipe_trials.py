"""Recipes by trials: short trainings of the best policies, in a study beside that of the policies."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from haqnas.bit_trials import Plan, deadline, teller
from haqnas.errors import ConfigurationError, error_class
from haqnas.recipe_goal import RecipeGoal
from haqnas.search.critic import Action
from haqnas.search.play import Game, Result, Stop, best_of, credit_of, trials_of
from haqnas.search.state import Tell
from haqnas.search.strategy import Task
from haqnas.search.study import JOURNAL, Facts, Place, Record, Study, heads_of
from haqnas.search.workers import interruptible, play_all
from haqnas.space.outcome import RecipeRecord
from haqnas.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Trainer:
    """What trials need of networks and data; `drop_of` trains one of the candidates, and gives the same each time."""

    drop_of: Callable[[int, Recipe], float]  # of a candidate, by a recipe
    score_of: Callable[[int, float], float]  # of a candidate with such a drop; higher is better
    known_of: Callable[[int], Facts]  # of a candidate, without a training
    float_score: Callable[[], float]
    judged_on: str
    epochs: float  # of a trial


@dataclass(frozen=True, slots=True)
class FoundRecipe:
    """Which candidate is trained in full, by what action of the goal; and the journal of the trials."""

    action: Action
    record: RecipeRecord
    study: Path


def search_recipe(goal: RecipeGoal, trainer: Trainer, plan: Plan, note: Tell) -> FoundRecipe:
    """The best of the first strategy's trials; the default recipe of the best candidate is the first of them.

    Trials that fail are results. Ctrl-C ends with the best so far. Raises KeyboardInterrupt where there is none yet,
    the error of the first trial where all failed, ConfigurationError where the study's storage fails.
    """
    (strategy, *_) = plan.strategies
    heads = heads_of(goal.decisions(), goal.pairs)
    trainer.float_score()  # before workers are forked
    end_s = None if plan.time_budget_s is None else time.monotonic() + plan.time_budget_s
    study = Study(Place(plan.folder / JOURNAL, plan.url, plan.owner), plan.name, goal.decisions())
    game = Game(
        strategy,
        Task(heads, lambda _: 0.0, plan.num_trials, goal.first),
        *(
            plan.seed,
            "short qat",
            lambda action: trainer.known_of(goal.candidate(action)),
            _evaluate(goal, trainer),
        ),
        begin_worker=lambda: torch.set_num_threads(1),  # the pool of threads does not survive a fork
    )
    study.enqueue(goal.first[0], {"strategy": strategy, "seed": plan.seed, "fidelity": "short qat"})
    with interruptible(note) as is_interrupted:
        stop = Stop(deadline(study, plan, end_s, 1), is_interrupted)
        tell = teller(f"recipe by {strategy}", plan.num_trials, study.records(), stop.deadline_s, note)
        records, stopped = play_all(study, game, plan.num_workers, stop, tell)
    best = best_of(records)
    if best is None:
        raise _nothing_done(records, stopped)
    record = RecipeRecord(
        choices=goal.words(best.action),
        drop=float(best.facts["drop"]),
        default_drop=next((one.facts.get("drop") for one in records if one.action == goal.first[0]), None),
        judged_on=trainer.judged_on,
        trial_epochs=trainer.epochs,
        strategy=strategy,
        seed=plan.seed,
        num_trials=plan.num_trials,
        num_tried=len(records),
        num_failed=sum(one.state == "failed" for one in records),
        stopped=stopped,
        time_budget_s=plan.time_budget_s,
        credit=dict(credit_of(heads, trials_of(records), best.action)),
        study=study.name,
    )
    if plan.url is not None:
        study.copy_to(plan.folder / JOURNAL)
    study.close()
    return FoundRecipe(best.action, record, plan.folder / JOURNAL)


def _evaluate(goal: RecipeGoal, trainer: Trainer) -> Callable[[Action], Result]:
    def evaluate(action: Action) -> Result:
        candidate = goal.candidate(action)
        drop = trainer.drop_of(candidate, goal.recipe(action))
        facts = {
            **trainer.known_of(candidate),  # also of the first trial, which no strategy asked for
            "accuracy": trainer.float_score() - drop,
            "drop": drop,
            "judged_on": trainer.judged_on,
            "epochs": trainer.epochs,
        }
        return Result(trainer.score_of(candidate, drop), facts)

    return evaluate


def _nothing_done(records: tuple[Record, ...], stopped: str) -> BaseException:
    if stopped == "interrupted" or not records:
        return KeyboardInterrupt()
    facts = records[0].facts
    kind = error_class(str(facts.get("failure_code", ConfigurationError.code)))
    return kind(f"all {len(records)} recipes that were tried failed; the first one: {facts.get('failure')}")
