"""What a joint search of architecture and bits needs of a network: shared weights, prices of all, accuracy of any."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas.bit_prices import predict_program
from haqnas.bit_search import DEFAULT_MAX_DROP, Note, Own, Search, describe_amount
from haqnas.bit_trials import Played
from haqnas.codegen.lower import lower
from haqnas.elastic_prices import ElasticPrices
from haqnas.errors import ConfigurationError, InfeasibleBudgetError
from haqnas.evaluate import dataset_length, probe_inputs
from haqnas.joint_goal import JointGoal, first_joint_actions, is_reachable, least_amounts, problem_for
from haqnas.resume import hash_request
from haqnas.rewrite.calibrate import Batch, calibrate_own
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.search.critic import Action
from haqnas.search.ilp import Budget
from haqnas.search_data import Given, Scorer, training_split
from haqnas.space.architecture import Architecture, ArchitectureSpace
from haqnas.space.policy import Policy
from haqnas.train.checkpoint import remove_damaged
from haqnas.train.seeds import seeded
from haqnas.train.sensitivity import Sensitivity
from haqnas.train.supernet import Supernet, train_supernet
from haqnas.train.supernet_file import load_supernet, save_supernet
from haqnas.train.supernet_recipe import SupernetRecipe

KEPT = 8  # networks that were cut out: trials near each other share them
STATISTICS_SAMPLES = 256  # that batch norms of a network are measured on

Network = Callable[[Architecture], GraphModule]


@dataclass(frozen=True, slots=True)
class Training:
    """What shared weights follow from, beside what is given; finished ones are kept in `cache_folder`.

    `space` is what they must serve; weights of more architectures do, too.
    """

    space: ArchitectureSpace
    recipe: SupernetRecipe
    seed: int
    versions: Mapping[str, str]
    cache_folder: Path


def shared_weights(given: Given, training: Training, work: Path, note: Note) -> Supernet:
    """Weights for all architectures, trained on what the search is not judged on; `work` keeps them.

    Trained ones are taken from the cache by whoever asks for the same, such as for another target. What `work` holds
    beside them stays true to its own.
    Raises ConfigurationError where there is no training data, but some is needed.
    """
    path = work / "supernet.npz"
    if not path.exists():
        recipe, data = training.recipe, given.train_data
        if not recipe.trains or data is None:
            supernet = train_supernet(
                given.searched, training.space, None, given.batches, recipe, training.seed
            )
        else:
            supernet = _trained(given, training, data, note)
        save_supernet(supernet, path)
    return load_supernet(path, given.searched)


def _trained(given: Given, training: Training, data: Dataset[Any], note: Note) -> Supernet:
    """Those of the cache, else new ones, which are kept there; an unfinished training goes on."""
    folder = training.cache_folder / "supernets" / _key(given, training, data)[:32]
    own = folder / hashlib.sha256(repr(training.space).encode()).hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    weights, checkpoint = own / "weights.npz", own / "training.pt"
    with _alone(folder / "lock", note):
        for path in (weights, *sorted(folder.glob("*/weights.npz"))):
            kept = _read(path, given)
            if kept is not None and kept.space.covers(training.space):
                note(f"supernet: trained before ({kept.training.epochs:.4g} epochs)")
                return kept
        remove_damaged(checkpoint)
        supernet = train_supernet(
            given.searched,
            training.space,
            training_split(data, training.seed),
            *(given.batches, training.recipe, training.seed, checkpoint, note),
        )
        save_supernet(supernet, weights)
        checkpoint.unlink(missing_ok=True)
        return supernet


def _key(given: Given, training: Training, data: Dataset[Any]) -> str:
    """Of all that trained weights follow from but the space; a few samples stand for the data."""
    with seeded(training.seed, 0):  # training data may change from read to read
        probes = probe_inputs(data, "train_data", given.example_inputs)
    settings = {
        "recipe": asdict(training.recipe),
        "seed": training.seed,
        "train_length": dataset_length(data, "train_data"),
        "versions": dict(training.versions),
    }
    return hash_request(
        given.searched, [*(part for batch in given.batches for part in batch), *probes], settings
    )


def _read(path: Path, given: Given) -> Supernet | None:
    try:
        return load_supernet(path, given.searched)
    except ConfigurationError:
        return None  # none there, or damaged


@contextmanager
def _alone(path: Path, note: Note) -> Iterator[None]:
    """Hold the lock: two commands at a time, for two targets, train once. A killed process lets go of it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("supernet: another haqnas trains these weights; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def networks_of(supernet: Supernet, given: Given) -> Network:
    """Cuts architectures out of the shared weights, with batch-norm statistics of their own."""
    batches: list[Batch] = []
    for batch in given.batches:
        if sum(len(part[0]) for part in batches) < STATISTICS_SAMPLES:
            batches.append(tuple(batch))

    @lru_cache(KEPT)
    def cut(choices: tuple[tuple[str, int], ...]) -> GraphModule:
        return supernet.cut(Architecture(dict(choices)), batches)

    return lambda architecture: cut(tuple(sorted(architecture.choices.items())))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a joint game is made of."""

    search: Search
    budget: Budget
    sensitivity: Sensitivity
    elastic: ElasticPrices
    network: Network
    scorer: Scorer
    price_batch: Batch


def play_jointly(parts: Parts, num_trials: int) -> Played:
    """Trials of architectures and bits; raises InfeasibleBudgetError where none is within the budget."""
    search, budget = parts.search, parts.budget
    is_free = budget.latency is None and budget.size_bytes is None
    allowed = DEFAULT_MAX_DROP if search.budgets.max_drop is None else search.budgets.max_drop
    losses = parts.sensitivity.losses
    problem = problem_for(search.space, losses, parts.elastic.of(parts.elastic.space.identity))
    goal = JointGoal(problem, budget, allowed if is_free else None, parts.elastic, losses)
    if not is_reachable(goal):
        raise InfeasibleBudgetError(_refusal(goal, search))

    def drop_of(action: Action) -> float:
        network = parts.network(goal.architecture(action))
        return parts.scorer.float_score() - parts.scorer.score_of(network, goal.policy(action))

    def own_of(action: Action) -> Own:
        network, policy = parts.network(goal.architecture(action)), goal.policy(action)
        return _own(network, policy, parts)

    return Played(
        goal,
        first=first_joint_actions(goal, parts.sensitivity, num_trials),
        drop_of=drop_of,
        own_of=own_of,
        architecture_of=goal.architecture,
    )


def _own(network: GraphModule, policy: Policy, parts: Parts) -> Own:
    integers = integerize(calibrate_own(quantize(network, policy), [parts.price_batch]))
    program = lower(integers, parts.search.source.profile, "net")
    found = predict_program(program, parts.search.source, parts.search.prices.model)
    assert found is not None  # the prices come from the same times
    return Own(found.amount, program.packed_weight_bytes)


def _refusal(goal: JointGoal, search: Search) -> str:
    (latency, size), unit = least_amounts(goal), search.prices.unit
    share = latency / goal.int8_latency
    return (
        f"no architecture and bits meet the budget: latency reaches down to {share:.1%} of uniform int8 "
        f"({describe_amount(latency, unit)}, predicted: {search.prices.source}), packed weights to {size:,} bytes; "
        "loosen the budget, take away --pin, --include and --exclude, or choose another target"
    )
