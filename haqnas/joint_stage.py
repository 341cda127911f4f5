"""What a joint search of architecture and bits needs of a network: shared weights, prices of all, accuracy of any."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch.fx import GraphModule
from torch.utils.data import Subset

from haqnas.bit_prices import predict_program
from haqnas.bit_search import DEFAULT_MAX_DROP, Note, Own, Search, describe_amount, problem_of
from haqnas.bit_trials import Played
from haqnas.codegen.lower import lower
from haqnas.elastic_prices import ElasticPrices
from haqnas.errors import InfeasibleBudgetError
from haqnas.evaluate import dataset_length
from haqnas.joint_goal import JointGoal, first_joint_actions, is_reachable
from haqnas.rewrite.calibrate import Batch, calibrate_own
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.search.critic import Action
from haqnas.search.ilp import Budget, reach
from haqnas.search_data import Given, Scorer, search_split
from haqnas.space.architecture import Architecture, ArchitectureSpace
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from haqnas.train.supernet import Supernet, train_supernet
from haqnas.train.supernet_file import load_supernet, save_supernet
from haqnas.train.supernet_recipe import SupernetRecipe

KEPT = 8  # networks that were cut out: trials near each other share them
STATISTICS_SAMPLES = 256  # that batch norms of a network are measured on

Network = Callable[[Architecture], GraphModule]


def shared_weights(
    given: Given, space: ArchitectureSpace, recipe: SupernetRecipe, seed: int, work: Path, note: Note
) -> Supernet:
    """Weights for all architectures, trained by `recipe` on what the search is not judged on; kept in `work`.

    Raises ConfigurationError where there is no training data, but some is needed.
    """
    path = work / "supernet.npz"
    if path.exists():
        return load_supernet(path, given.canonical)
    data = given.train_data
    if data is not None:
        judged_on = set(search_split(data, seed).indices)
        length = dataset_length(data, "train_data")
        data = Subset(data, [index for index in range(length) if index not in judged_on])
    supernet = train_supernet(
        given.canonical, space, data, given.batches, recipe, seed, work / "supernet.pt", note
    )
    save_supernet(supernet, path)
    return supernet


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
    problem = problem_of(search, parts.sensitivity.losses)
    goal = JointGoal(problem, budget, allowed if is_free else None, parts.elastic)
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
    least = goal.problem_at(Architecture({knob.name: knob.choices[-1] for knob in goal.shapes}))
    spans, unit = reach(least), search.prices.unit
    latency, size = spans.latency[0], spans.size_bytes[0]
    share = latency / goal.int8_latency
    return (
        f"no architecture and bits meet the budget: latency reaches down to {share:.1%} of uniform int8 "
        f"({describe_amount(latency, unit)}, predicted: {search.prices.source}), packed weights to {size:,} bytes; "
        "loosen the budget, take away --pin, --include and --exclude, or choose another target"
    )
