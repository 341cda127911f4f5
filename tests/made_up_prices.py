"""Prices that nobody measured: shared by the tests of tables in the formats of other searches."""

import random

from haqnas.graph.layers import list_layers
from haqnas.pricing import Conversion, Cost, LayerPrices, NetworkModel
from haqnas.quantspec import QuantSpec
from haqnas.space.policy import Policy

SPECS = [QuantSpec.parse(text) for text in ("w8a8", "w4a8", "w4a4", "w2a4")]
MODEL = NetworkModel(1.1, 2e-8, 0.0, 4)


def made_up_prices(canonical, seed=5):
    """Every layer and every other node costs something, and so do conversions to 4 bits."""
    rng = random.Random(seed)
    names = [layer.name for layer in list_layers(canonical)]
    layers = {name: {spec: Cost(rng.uniform(1e-6, 1e-3), 2) for spec in SPECS} for name in names}
    conversions = [
        Conversion(Cost(rng.uniform(1e-6, 1e-5), 1), frozenset(names[i : i + 2]), 4) for i in (1, 6)
    ]
    others = [node.name for node in canonical.graph.nodes if node.op == "call_function"]
    return LayerPrices(
        layers, tuple(conversions), {name: Cost(rng.uniform(1e-6, 1e-4), 1) for name in others}
    )


def uniform_price(prices, spec):
    return prices.price(Policy(spec), MODEL)
