"""Made-up problems for the tests of strategies."""

import numpy as np

from haqnas.pricing import Conversion, Cost, LayerPrices, NetworkModel
from haqnas.quantspec import QuantSpec
from haqnas.search.ilp import Problem
from haqnas.space.knobs import Knob, SearchSpace

SPECS = tuple(QuantSpec.parse(text) for text in ("w8a8", "w4a8", "w4a4", "w2a4"))


def made_up_problem(seed, num_knobs, num_conversions):
    """Random costs; the first knob has two layers, the last one no choice."""
    rng = np.random.default_rng(seed)
    layers = [f"layer{index}" for index in range(num_knobs + 1)]
    knobs = [Knob("pair", tuple(layers[:2]), SPECS)]
    knobs += [Knob(name, (name,), SPECS) for name in layers[2:-1]] + [Knob("last", (layers[-1],), SPECS[:1])]
    conversions = tuple(
        Conversion(
            Cost(float(rng.uniform(0, 20)), 1), frozenset(rng.choice(layers, 2, replace=False).tolist()), 4
        )
        for _ in range(num_conversions)
    )
    return Problem(
        space=SearchSpace(tuple(knobs)),
        losses={name: dict(zip(SPECS, rng.exponential(1, 4).tolist(), strict=True)) for name in layers},
        prices=LayerPrices(
            {name: {spec: Cost(float(rng.uniform(1, 50)), 2) for spec in SPECS} for name in layers},
            conversions,
            {"input": Cost(3.0, 1)},
        ),
        model=NetworkModel(1.1, 0.5, 0.0, 1),
        sizes={name: {spec: int(rng.integers(1, 1000)) for spec in SPECS} for name in layers},
        fixed_bytes=64,
    )


def price_of(counts, limit, rng):
    """Additive costs over `limit` of the dearest; options in order of cost."""
    costs = [np.sort(rng.uniform(0.1, 1, count)) for count in counts]
    most = sum(cost[-1] for cost in costs)
    return lambda action: sum(cost[option] for cost, option in zip(costs, action, strict=True)) / most / limit
