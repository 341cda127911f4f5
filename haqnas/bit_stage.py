"""The stage that settles the bits of every layer: as the user gave them, or by a search."""

import hashlib
import json
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.fx import GraphModule

from haqnas.artifact import write_atomically
from haqnas.bit_prices import Batch, BitPrices, TimeSource, kept_prices, price_graphs, time_source
from haqnas.bit_search import (
    ILP,
    Search,
    check_budgets,
    check_time_limit,
    is_cut_short,
    read_amounts,
    restricted,
    search_bits,
)
from haqnas.budgets import Limit
from haqnas.elastic_prices import Price
from haqnas.errors import ConfigurationError
from haqnas.graph.layers import list_layers
from haqnas.hardware import HardwareProfile
from haqnas.networks import Networks, find_sensitivities, price_networks, share_networks
from haqnas.options import AUTO, Options, search_time_s, strategies_of
from haqnas.quantspec import QuantSpec
from haqnas.resume import hash_request
from haqnas.rewrite.calibrate import calibrate_own
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.search.state import Tell
from haqnas.search_data import Given, make_judge, make_scorer
from haqnas.settings import supernet_recipe_of
from haqnas.space.architecture import Architecture, ArchitectureSpace
from haqnas.space.elastic import searched_space
from haqnas.space.knobs import WIDEST, SearchSpace, derive_space
from haqnas.space.outcome import Finalist, RecipeRecord, SearchRecord, decode_finalist, encode_finalist
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from haqnas.train.sensitivity_file import decode_sensitivity, encode_sensitivity

if TYPE_CHECKING:
    from haqnas.bit_trials import Plan

PRICE_SAMPLES = 4  # what activations look like does not matter to prices; fewer than bias correction wants
TRIAL_BATCHES = 4  # of 32 samples, that a policy of a trial is calibrated on: a fifth of the time of 16
NUM_FINALISTS = 4  # policies that recipes are searched for; the best one alone where none are
# Where the profile lists no bits: those of the kernels that pay most often.
UNPROFILED_BITS = ("w8a8", "w4a8", "w2a8", "w8a4", "w4a4", "w2a4")

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Priced:
    """Prices of a network, where their times come from, and what uniform int8 takes by them."""

    found: BitPrices
    source: TimeSource

    @property
    def int8_latency(self) -> float:
        return self.found.prices.price(Policy(WIDEST), self.found.model)

    @property
    def int8_bytes(self) -> int:
        return self.found.fixed_bytes + sum(row[WIDEST] for row in self.found.sizes.values())


@dataclass(frozen=True, slots=True)
class Chosen:
    """The bits of every layer; `search`, `sensitivity` where a search chose them, `prices` where budgets need them.

    `study` is the journal of a search's trials. `architecture` and its canonical graph, `network`, where a search chose
    them too, out of `networks`. `others` are the next best trials, `recipe` how the fine-tuning was chosen.
    """

    policy: Policy
    search: SearchRecord | None = None
    sensitivity: Sensitivity | None = None
    prices: Priced | None = None
    study: Path | None = None
    architecture: Architecture | None = None
    network: GraphModule | None = None
    others: tuple[Finalist, ...] = ()
    networks: Networks | None = None
    recipe: RecipeRecord | None = None

    @property
    def operators(self) -> Mapping[str, str]:
        """The names of the architecture's branches, by knob."""
        if self.networks is None or self.architecture is None:
            return {}
        return self.networks.prices.space.operators(self.architecture)

    def is_for_speed(self, size: Limit | None) -> bool:
        """Whether haqnas chose the bits, and uniform int8, small enough too, may ship in their place."""
        if self.search is None or size is None:
            return self.search is not None
        return self.search.int8_weight_bytes <= size.of(self.search.int8_weight_bytes)


def given_policy(options: Options, canonical: GraphModule) -> Policy | None:
    """The policy that the user gave, with the rules for single layers; None where it is to be searched.

    Raises ConfigurationError for names and globs that fit no layer, and where no architecture can be searched.
    """
    names = [layer.name for layer in list_layers(canonical)]
    fixed = options.rules.fixed(names)
    if options.policy is None:
        derive_space(canonical, legal_bits(options.profile), options.rules)
        if options.settings.architecture == AUTO:
            searched_space(canonical)
        return None
    options.policy.check_layers(names)
    return Policy(options.policy.default, {**options.policy.layers, **fixed})


def legal_bits(profile: HardwareProfile) -> tuple[QuantSpec, ...]:
    """What a search may choose: the bits that the profile lists as paying."""
    return tuple(map(QuantSpec.parse, profile.bits or UNPROFILED_BITS))


def read_times(options: Options, cache_folder: Path, versions: Mapping[str, str]) -> TimeSource | None:
    """The times of kernels for budgets and searches; None where bits are given without budgets.

    Raises ConfigurationError where there are none, or none that the latency budget can be held against, DeviceError.
    """
    latency, is_searched = options.budgets.latency, options.policy is None
    if not is_searched and latency is None and options.budgets.size is None:
        return None
    source = time_source(
        options.profile, options.table, options.device, options.linker, cache_folder, versions
    )
    if is_searched and latency is not None and not latency.is_share:
        if options.settings.threads > 1:
            raise ConfigurationError(
                f"--latency-budget {latency.text}: times of kernels are of one thread, so with --threads "
                f"{options.settings.threads} give a share of uniform int8, such as 60%"
            )
        check_time_limit(latency, source)
    return source


def choose_bits(
    options: Options,
    policy: Policy | None,
    given: Given,
    work: Path,
    cache_folder: Path,
    versions: Mapping[str, str],
    note: Tell,
    others: Sequence[ArchitectureSpace] = (),
) -> Chosen:
    """The bits of every layer; `policy` is what the user gave. What a search found is kept in `work`.

    `work` is named by all that is asked for: a study in a database is known by it. Shared weights that are trained here
    are to serve `others`, too.

    Raises InfeasibleBudgetError before any work on accuracy, ConfigurationError, DeviceError.
    """
    source = read_times(options, cache_folder, versions)
    if source is None:
        assert policy is not None
        return Chosen(policy)
    costs = _costs(options, policy, given, source, cache_folder, versions, note)
    if policy is not None:
        return Chosen(policy, prices=costs.priced)
    return _searched(options, given, costs, others, work, cache_folder, versions, note)


def needed_architectures(
    options: Options, given: Given, cache_folder: Path, versions: Mapping[str, str], note: Note
) -> ArchitectureSpace | None:
    """Those that shared weights are to be trained for; None where none are trained. Prices are kept for the search.

    Raises as `choose_bits`.
    """
    if options.settings.architecture is None or not supernet_recipe_of(options.settings).trains:
        return None
    source = read_times(options, cache_folder, versions)
    assert source is not None  # the architecture is searched
    costs = _costs(options, None, given, source, cache_folder, versions, note)
    budget = read_amounts(_search(options, given, costs))
    return price_networks(given, costs.priced.found, costs.price, budget, note).space


@dataclass(frozen=True, slots=True)
class _Costs:
    """What may be chosen for each layer, what that costs, and what prices other architectures."""

    space: SearchSpace
    priced: Priced
    price: Price


def _costs(
    options: Options,
    policy: Policy | None,
    given: Given,
    source: TimeSource,
    cache_folder: Path,
    versions: Mapping[str, str],
    note: Note,
) -> _Costs:
    space = derive_space(given.searched, () if policy else legal_bits(options.profile), options.rules)
    batch = _price_batch(given)
    key = hash_request(
        given.searched, batch, {"times": source.key, "specs": list(map(str, space.specs)), **versions}
    )

    def price(graphs: Sequence[tuple[GraphModule, Batch]], kept_as: str) -> tuple[BitPrices, ...]:
        def make() -> tuple[BitPrices, ...]:
            with tempfile.TemporaryDirectory(prefix="haqnas-") as folder:
                return price_graphs(graphs, space.specs, source, options.name, Path(folder), note)

        return kept_prices(cache_folder / "prices" / f"{key[:32]}{kept_as}.json", source, make)

    def price_all(graphs: Sequence[tuple[GraphModule, Batch]]) -> tuple[BitPrices, ...]:
        return price(graphs, f"-{len(graphs)}")

    (found,) = price([(given.canonical, batch)], "")
    usable = space if policy else restricted(space, found.refused)
    return _Costs(usable, Priced(found, source), price_all)


def _search(options: Options, given: Given, costs: _Costs) -> Search:
    def simulate(policy: Policy) -> GraphModule:
        return integerize(calibrate_own(quantize(given.canonical, policy), [_price_batch(given)]))

    return Search(costs.space, costs.priced.found, options.budgets, simulate, costs.priced.source)


def _price_batch(given: Given) -> tuple[Tensor, ...]:
    if given.source == "synthetic":
        return given.example_inputs
    return tuple(part[:PRICE_SAMPLES] for part in given.batches[0])


def _searched(
    options: Options,
    given: Given,
    costs: _Costs,
    others: Sequence[ArchitectureSpace],
    work: Path,
    cache_folder: Path,
    versions: Mapping[str, str],
    note: Tell,
) -> Chosen:
    search, space, priced = _search(options, given, costs), costs.space, costs.priced
    is_joint = options.settings.architecture == AUTO
    budget = read_amounts(search) if is_joint else check_budgets(search)
    network = None
    if is_joint:
        prices = price_networks(given, costs.priced.found, costs.price, budget, note)
        network = share_networks(options, given, prices, others, work, cache_folder, versions, note)
    path = work / "search.json"
    kept = _decode(json.loads(path.read_bytes()), priced, work, network) if path.exists() else None
    if kept is not None and kept.search is not None:
        is_more_to_do = is_cut_short(kept.search, search_time_s(options))
        if not is_more_to_do:
            return kept
    sensitivity = find_sensitivities(options, given, _choices(space), network, cache_folder, versions, note)
    if strategies_of(options.settings) == (ILP,):
        judge = make_judge(given, options.settings.seed)
        found = search_bits(search, budget, sensitivity, judge, note)
    else:
        from haqnas.bit_trials import search_by_trials  # Optuna takes a second to import

        judge = make_judge(given, options.settings.seed, TRIAL_BATCHES)
        plan = make_plan(options, work, None if network is None else network.weights_sha256)
        joint = None
        if network is not None:
            from haqnas.joint_stage import Parts, play_jointly

            search = replace(search, space=restricted(space, network.prices.refused))
            scorer = make_scorer(given, options.settings.seed, TRIAL_BATCHES)
            parts = Parts(
                *(search, budget, sensitivity, network.prices, network.cut, scorer, _price_batch(given))
            )
            joint = play_jointly(parts, plan.num_trials)
        found = search_by_trials(search, budget, sensitivity, judge, plan, note, joint)
    chosen = Chosen(
        *(found.policy, found.record, sensitivity, priced, found.study, found.architecture),
        None if network is None or found.architecture is None else network.cut(found.architecture),
        found.others,
        network,
    )
    write_atomically(path, json.dumps(_encode(chosen)).encode())
    return chosen


def make_plan(options: Options, work: Path, weights: str | None) -> "Plan":
    """How the trials of policies are made, and where they are kept.

    `weights`: hash of those that the trials share, if any; trials of other ones are another study.
    """
    from haqnas.bit_trials import NUM_TRIALS, Plan

    settings = options.settings
    place = f"{socket.gethostname()}:{work.resolve()}"
    name = f"{options.name} {work.name[:12]}"
    return Plan(
        strategies=strategies_of(settings),
        num_trials=NUM_TRIALS if settings.trials is None else settings.trials,
        time_budget_s=search_time_s(options),
        num_workers=settings.workers,
        url=settings.study,
        folder=work,
        name=name if weights is None else f"{name} {weights[:12]}",
        owner=hashlib.sha256(place.encode()).hexdigest()[:12],
        seed=settings.seed,
        num_finalists=NUM_FINALISTS if settings.qat_recipe == AUTO else 1,
    )


def _choices(space: SearchSpace) -> dict[str, tuple[QuantSpec, ...]]:
    return {
        layer: tuple(dict.fromkeys((WIDEST, *knob.choices))) for knob in space.knobs for layer in knob.layers
    }


def _encode(chosen: Chosen) -> dict[str, Any]:
    assert chosen.search is not None
    assert chosen.sensitivity is not None
    return {
        **encode_finalist(Finalist(chosen.policy, chosen.search, chosen.architecture)),
        "sensitivity": encode_sensitivity(chosen.sensitivity).decode(),
        "study": None if chosen.study is None else chosen.study.name,
        "others": list(map(encode_finalist, chosen.others)),
    }


def _decode(document: Any, priced: Priced, work: Path, networks: Networks | None) -> Chosen:
    first = decode_finalist(document)
    architecture = first.architecture
    return Chosen(
        first.policy,
        first.record,
        decode_sensitivity(document["sensitivity"].encode(), "the kept search"),
        priced,
        None if document["study"] is None else work / document["study"],
        architecture,
        None if networks is None or architecture is None else networks.cut(architecture),
        tuple(map(decode_finalist, document["others"])),
        networks,
    )
