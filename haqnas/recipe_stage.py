"""The stage that settles how the network is fine-tuned: a search of recipes, for the best policies of that of bits.

A trial is a short training on the training data without the search split, whose accuracy is read on that split. The
winner is trained in full afterwards, as though the user had given its bits and its recipe.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch.fx import GraphModule
from torch.utils.data import DataLoader, Dataset, Subset

from haqnas.artifact import write_atomically
from haqnas.bit_search import DEFAULT_MAX_DROP, is_cut_short
from haqnas.bit_stage import Chosen, make_plan
from haqnas.bit_trials import Plan
from haqnas.errors import ConfigurationError
from haqnas.evaluate import dataset_length
from haqnas.graph.layers import list_layers
from haqnas.options import Options, recipe_strategy, search_time_s, trial_epochs
from haqnas.recipe_goal import Lessons, RecipeGoal, recipe_knobs
from haqnas.recipe_trials import FoundRecipe, Trainer, search_recipe
from haqnas.rewrite.light import lighten
from haqnas.rewrite.ptq import quantize_without_training
from haqnas.search.state import Tell
from haqnas.search.study import JOURNAL, Facts
from haqnas.search_data import Given, make_scorer, training_split
from haqnas.settings import given_recipe
from haqnas.space.architecture import Architecture
from haqnas.space.outcome import RecipeRecord, SearchRecord
from haqnas.space.policy import Policy
from haqnas.train.augment import are_images
from haqnas.train.batches import pair
from haqnas.train.fine_tune import fine_tune
from haqnas.train.loss import has_classes
from haqnas.train.recipe import Recipe
from haqnas.train.seeds import seeded

NUM_TRIALS = 16  # where the user gives no number
LEAST_SAMPLES = 4  # of training data: half are judged on, and less than two cannot be trained on
TIE = 0.01  # of uniform int8's latency, that all of the accuracy is worth between policies within the drop


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A policy that may be trained, and the canonical graph that it is for; `record` where a search found it."""

    policy: Policy
    network: GraphModule
    record: SearchRecord | None
    architecture: Architecture | None

    @property
    def share(self) -> float:
        """Predicted latency, of uniform int8's."""
        return 1.0 if self.record is None else self.record.predicted_latency / self.record.int8_latency


def choose_recipe(
    options: Options, chosen: Chosen, given: Given, train_data: Dataset[Any], work: Path, note: Tell
) -> tuple[Chosen, Recipe]:
    """The policy of `chosen` and the recipe that did best in short trainings; what was found is kept in `work`.

    Where the search of bits was interrupted, or nothing is left to choose, the best policy and the recipe as given.
    Raises ConfigurationError for too little data, and as `search_recipe`.
    """
    base, settings = options.recipe, options.settings
    assert base is not None  # its length was asked for
    if chosen.search is not None and chosen.search.stopped == "interrupted":
        return chosen, base
    candidates = _candidates(chosen, given)
    lessons = _read_lessons(given, train_data, settings.seed)
    knobs = recipe_knobs(base, given_recipe(settings), lessons)
    goal = RecipeGoal(base, knobs, tuple(_describe(*one) for one in enumerate(candidates)))
    if not goal.decisions():
        return chosen, base
    weights = None if chosen.networks is None else chosen.networks.weights_sha256
    plan = _plan(options, goal, candidates, make_plan(options, work, weights))
    path = work / "recipe.json"
    found = _decode(path, plan) if path.exists() else None
    if found is None or is_cut_short(found.record, plan.time_budget_s):
        found = search_recipe(goal, _trainer(options, candidates, given, train_data), plan, note)
        document = {"action": found.action, "record": asdict(found.record)}
        write_atomically(path, json.dumps(document).encode())
    winner = candidates[goal.candidate(found.action)]
    changed = replace(
        chosen,
        policy=winner.policy,
        search=winner.record,
        architecture=winner.architecture,
        network=None if winner.architecture is None else winner.network,
        study=found.study,
        recipe=found.record,
    )
    return changed, goal.recipe(found.action)


def _candidates(chosen: Chosen, given: Given) -> tuple[_Candidate, ...]:
    def network_of(architecture: Architecture | None) -> GraphModule:
        if chosen.networks is None or architecture is None:
            return given.canonical
        return chosen.networks.cut(architecture)

    first = _Candidate(chosen.policy, network_of(chosen.architecture), chosen.search, chosen.architecture)
    others = (
        _Candidate(one.policy, network_of(one.architecture), one.record, one.architecture)
        for one in chosen.others
    )
    return (first, *others)


def _describe(index: int, candidate: _Candidate) -> str:
    """Its place in the search of bits, which tells candidates apart, and its bits and latency."""
    names = (layer.name for layer in list_layers(candidate.network))
    counted = Counter(candidate.policy.spec_of(name) for name in names)
    bits = ", ".join(f"{count} x {spec}" for spec, count in sorted(counted.items(), reverse=True))
    return f"{index + 1}: {bits}, {candidate.share:.1%} of the latency"


def _read_lessons(given: Given, train_data: Dataset[Any], seed: int) -> Lessons:
    """Raises ConfigurationError for too little data."""
    length = dataset_length(train_data, "train_data")
    if length < LEAST_SAMPLES:
        raise ConfigurationError(
            f"--qat-recipe auto trains on one part of train_data and judges by another, but it has only {length} "
            f"samples; at least {LEAST_SAMPLES} are needed, and thousands are usual"
        )
    with seeded(seed, 0), torch.no_grad():
        inputs, labels = pair(next(iter(DataLoader(Subset(train_data, range(2)), batch_size=2))))
        outputs = given.canonical(*inputs)
    return Lessons(
        num_samples=len(training_split(train_data, seed)),
        are_images=are_images([part[0] for part in inputs]),
        have_labels=has_classes(outputs[0], labels),
    )


def _plan(options: Options, goal: RecipeGoal, candidates: Sequence[_Candidate], plan: Plan) -> Plan:
    """As `plan`, that of the policies, with a study of its own for just these choices."""
    settings = options.settings
    networks = [(one.policy.to_json(), one.architecture and one.architecture.to_json()) for one in candidates]
    asked = json.dumps([repr(goal), networks, trial_epochs(settings)])
    strategy = recipe_strategy(settings)
    return replace(
        plan,
        strategies=(strategy,),
        num_trials=NUM_TRIALS if settings.qat_trials is None else settings.qat_trials,
        time_budget_s=search_time_s(options),
        name=f"{plan.name} {strategy} recipe {hashlib.sha256(asked.encode()).hexdigest()[:8]}",
    )


def _trainer(
    options: Options, candidates: Sequence[_Candidate], given: Given, train_data: Dataset[Any]
) -> Trainer:
    settings, epochs = options.settings, trial_epochs(options.settings)
    scorer = make_scorer(given, settings.seed)
    data = training_split(train_data, settings.seed)

    @lru_cache(len(candidates))
    def calibrated(index: int) -> GraphModule:
        one = candidates[index]
        return quantize_without_training(one.network, one.policy, given.batches, given.ptq)

    def drop_of(index: int, recipe: Recipe) -> float:
        network, short = candidates[index].network, replace(recipe, epochs=epochs, time_s=None)
        trained = fine_tune(
            *(calibrated(index), network, data, given.batches, short, settings.seed), teacher=given.canonical
        )
        with seeded(settings.seed, 0):  # training data may change from read to read
            return scorer.float_score() - scorer.read(lighten(trained.graph))

    def known_of(index: int) -> Facts:
        record = candidates[index].record
        if record is None:
            return {}
        return {
            "latency": record.predicted_latency,
            "latency_unit": record.unit,
            "latency_kind": "predicted",
            "latency_share": candidates[index].share,
        }

    is_free = options.budgets.latency is None and options.budgets.size is None
    allowed = DEFAULT_MAX_DROP if options.budgets.max_drop is None else options.budgets.max_drop

    def score_of(index: int, drop: float) -> float:
        """Less drop; where only that is limited, less latency, and what is within before all beyond."""
        if len(candidates) == 1 or not is_free:
            return -drop
        return -candidates[index].share - TIE * drop if drop <= allowed else -2.0 - (drop - allowed)

    return Trainer(drop_of, score_of, known_of, scorer.float_score, scorer.judged_on, epochs)


def _decode(path: Path, plan: Plan) -> FoundRecipe | None:
    """What an earlier run found; None where it was asked for something else."""
    document = json.loads(path.read_bytes())
    record = TypeAdapter(RecipeRecord).validate_python(document["record"])
    if record.study != plan.name:
        return None
    return FoundRecipe(tuple(document["action"]), record, plan.folder / JOURNAL)
