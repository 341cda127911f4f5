"""The networks of a joint search: prices of their architectures, shared weights, and what their layers lose by bits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.fx import GraphModule

from haqnas.bit_prices import BitPrices
from haqnas.elastic_prices import ElasticPrices, Price, price_space
from haqnas.elastic_shapes import operator_settings
from haqnas.graph.layers import list_layers
from haqnas.options import Options
from haqnas.quantspec import QuantSpec
from haqnas.search.ilp import Budget
from haqnas.search_data import Given, find_sensitivity
from haqnas.settings import supernet_recipe_of
from haqnas.space.architecture import Architecture, ArchitectureSpace
from haqnas.space.elastic import searched_space
from haqnas.train.sensitivity import Sensitivity
from haqnas.train.supernet_file import weights_sha256

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Networks:
    """The architectures that may be chosen, with their prices, and what cuts one out of the shared weights."""

    prices: ElasticPrices
    cut: Callable[[Architecture], GraphModule]
    weights_sha256: str

    def with_other_operators(self) -> Iterator[GraphModule]:
        """Networks of whole sizes which hold all layers that the first operators do without."""
        for choices in operator_settings(self.prices.space, self.prices.shapes)[1:]:
            yield self.cut(Architecture(choices))


def price_networks(given: Given, whole: BitPrices, price: Price, budget: Budget, note: Note) -> ElasticPrices:
    """Prices of all architectures that the budget leaves."""
    from haqnas.joint_goal import what_limits_need

    prices = price_space(given.searched, searched_space(given.searched), whole, price, note)
    left = what_limits_need(prices, budget)
    note(f"the budget leaves {left.space.size:,} of {prices.space.size:,} architectures")
    return left


def share_networks(
    options: Options,
    given: Given,
    prices: ElasticPrices,
    others: Sequence[ArchitectureSpace],
    work: Path,
    cache_folder: Path,
    versions: Mapping[str, str],
    note: Note,
) -> Networks:
    """Networks of shared weights, which serve `others`, too, where they are trained here; raises ConfigurationError."""
    from haqnas.joint_stage import Training, networks_of, shared_weights

    settings = options.settings
    spaces = (prices.space, *others)  # each is a part of the next greater one
    space = next(one for one in spaces if all(map(one.covers, spaces)))
    training = Training(space, supernet_recipe_of(settings), settings.seed, versions, cache_folder)
    supernet = shared_weights(given, training, work, note)
    return Networks(prices, networks_of(supernet, given), weights_sha256(supernet))


def find_sensitivities(
    options: Options,
    given: Given,
    choices: Mapping[str, Sequence[QuantSpec]],
    networks: Networks | None,
    cache_folder: Path,
    versions: Mapping[str, str],
    note: Note,
) -> Sensitivity:
    """Of every layer; those of other operators than the first in networks of the shared weights that have them."""
    found: Sensitivity | None = None
    left = dict(choices)
    settings = options.settings
    for graph in (given.canonical, *(() if networks is None else networks.with_other_operators())):
        names = {layer.name for layer in list_layers(graph)} & left.keys()
        own = {name: left.pop(name) for name in list(left) if name in names}
        one = find_sensitivity(
            replace(given, canonical=graph),
            *(own, settings.sensitivity, settings.seed, cache_folder, versions, note),
        )
        found = one if found is None else found.joined(one)
    assert found is not None
    return found
