"""Prices of random architectures at random bits, put together by haqnas.elastic_prices, against programs of their own.

HAQNAS_DATA=... python -m tests.benchmarks.elastic_prices examples/cifar10_resnet.py --targets x86-64-v3 cortex-a72

Times of kernels are those of the profile's table, for both: what is compared is the composition, not the table.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch.fx import GraphModule

from haqnas.bit_prices import Batch, BitPrices, TimeSource, predict_program, price_graphs
from haqnas.codegen.lower import lower
from haqnas.devices.local import read_host_cpu
from haqnas.elastic_prices import ElasticPrices, noise, price_space
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import find_profile, profile_path
from haqnas.latency_table import read_table
from haqnas.options import split_model
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate_own
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureSpace, KnobKind
from haqnas.space.elastic import derive_architecture_space
from haqnas.space.knobs import WIDEST
from haqnas.space.policy import Policy
from tests.benchmarks.page import table

SPECS = tuple(map(QuantSpec.parse, ("w4a8", "w4a4", "w2a4")))
KINDS = {
    "widths and kernel sizes": (KnobKind.WIDTH, KnobKind.KERNEL),
    "and depths": (KnobKind.WIDTH, KnobKind.KERNEL, KnobKind.DEPTH),
    "and resolutions": tuple(KnobKind),
}


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative, of each candidate."""

    latency: tuple[float, ...]
    size: tuple[float, ...]


def errors_of(
    canonical: GraphModule,
    space: ArchitectureSpace,
    prices: ElasticPrices,
    source: TimeSource,
    kinds: tuple[KnobKind, ...],
    count: int,
    rng: random.Random,
) -> Errors:
    latency, size = [], []
    for _ in range(count):
        chosen = Architecture(
            {knob.name: rng.choice(knob.choices) for knob in space.knobs if knob.kind in kinds}
        )
        graph, found = specialise(canonical, space, chosen), prices.of(chosen)
        policy = Policy(WIDEST, {name: rng.choice((WIDEST, *SPECS)) for name in found.sizes})
        quantized = integerize(calibrate_own(quantize(graph, policy), [noise(graph)]))
        program = lower(quantized, source.profile, "net")
        own = predict_program(program, source, found.model)
        assert own is not None  # there is a table
        latency.append(found.prices.price(policy, found.model) / own.amount - 1)
        num_bytes = found.fixed_bytes + sum(row[policy.spec_of(name)] for name, row in found.sizes.items())
        size.append(num_bytes / program.packed_weight_bytes - 1)
    return Errors(tuple(latency), tuple(size))


def _price(
    source: TimeSource, folder: Path, graphs: Sequence[tuple[GraphModule, Batch]]
) -> tuple[BitPrices, ...]:
    return price_graphs(graphs, SPECS, source, "net", folder, tell)


def tell(note: str) -> None:
    print(note, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="MODEL[:BUILDER]")
    parser.add_argument("--targets", nargs="+", default=["x86-64-v3", "cortex-a72"])
    parser.add_argument("--count", type=int, default=10, help="candidates of each kind")
    given = parser.parse_args()
    loaded = load_model(*split_model(given.model))
    canonical = normalise(trace(loaded.model, loaded.example_inputs))
    space = derive_architecture_space(canonical)
    host, rows = read_host_cpu(), []
    for target in given.targets:
        source = TimeSource(find_profile(target, host), read_table(profile_path(target, host)), None)
        with tempfile.TemporaryDirectory() as folder:
            price = partial(_price, source, Path(folder))
            (whole,) = price([(canonical, loaded.example_inputs)])
            prices = price_space(canonical, space, whole, price, tell)
        for words, kinds in KINDS.items():
            found = errors_of(canonical, space, prices, source, kinds, given.count, random.Random(0))
            off = [np.abs(values) for values in (found.latency, found.size)]
            rows.append((target, words, *(f"{one.mean():.1%} ({one.max():.1%})" for one in off)))
    print(f"{space.size:,} architectures; mean error (greatest) of {given.count} candidates\n")
    print(table(("target", "random", "latency", "packed weights"), rows))


if __name__ == "__main__":
    main()
