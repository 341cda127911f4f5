"""Prices of every architecture of a space at every bits: latency, and packed bytes of weights.

What calls of a layer cost depends on its shapes, and they on a few knobs. So a few architectures are lowered, in which
every layer has every shape that it may have, and the prices of any other are put together from theirs. The resolution
is priced by its share of the cost at full widths. Depth takes away what the dropped blocks cost. What this misses
(fusions across a block that is dropped) is seen where a candidate itself is lowered.

docs/architecture-space.md has the errors of this.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch.fx import GraphModule, Node

from haqnas.bit_prices import Batch, BitPrices
from haqnas.graph.edit import attribute, shape_of
from haqnas.graph.layers import Layer, LayerKind, list_layers
from haqnas.pricing import Conversion, Cost, LayerPrices
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind

Sizes: TypeAlias = tuple[int, ...]
Choices: TypeAlias = Mapping[str, int]  # of all knobs, by name
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of an owner of calls: a layer, by its name, or another node, by its own.

    `sizes`: those of its inputs (the first `num_inputs`), of its output, of its weights, as the network is. `changes`:
    what each choice of a width or kernel size adds to them; each channel belongs to one knob, so changes add up.
    """

    sizes: Sizes
    num_inputs: int
    changes: Mapping[tuple[str, int], Sizes]

    @property
    def knobs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name, _ in self.changes))

    def at(self, choices: Choices) -> Sizes:
        changes = [
            self.changes[name, choices[name]] for name in self.knobs if (name, choices[name]) in self.changes
        ]
        return tuple(map(sum, zip(self.sizes, *changes, strict=True)))


@dataclass(frozen=True, slots=True)
class Shapes:
    """`absent`: the owners that a choice of a depth takes away."""

    owners: Mapping[str, Shape]
    absent: Mapping[tuple[str, int], frozenset[str]]

    def gone(self, choices: Choices) -> frozenset[str]:
        """The owners that an architecture does without."""
        return frozenset().union(
            *(owners for (knob, choice), owners in self.absent.items() if choices[knob] == choice)
        )


def find_shapes(canonical: GraphModule, space: ArchitectureSpace) -> Shapes:
    """By trying each choice of each knob alone; the resolution is left out."""
    whole = _facts(canonical)
    changes: dict[str, dict[tuple[str, int], Sizes]] = {owner: {} for owner in whole}
    absent: dict[tuple[str, int], frozenset[str]] = {}
    for knob, choice in _smaller(space.knobs):
        if knob.kind is KnobKind.RESOLUTION:
            continue
        cut = _facts(specialise(canonical, space, Architecture({knob.name: choice})))
        if knob.kind is KnobKind.DEPTH:
            absent[knob.name, choice] = frozenset(whole.keys() - cut.keys())
            continue
        for owner, (_, sizes) in whole.items():
            if cut[owner][1] != sizes:
                pairs = zip(cut[owner][1], sizes, strict=True)
                changes[owner][knob.name, choice] = tuple(a - b for a, b in pairs)
    owners = {owner: Shape(sizes, count, changes[owner]) for owner, (count, sizes) in whole.items()}
    return Shapes(owners, absent)


def _smaller(knobs: Sequence[ArchitectureKnob]) -> Iterator[tuple[ArchitectureKnob, int]]:
    return ((knob, choice) for knob in knobs for choice in knob.choices[1:])


def _facts(graph: GraphModule) -> dict[str, tuple[int, Sizes]]:
    """By owner: how many sizes its inputs have, and all sizes, of its first call."""
    found: dict[str, tuple[int, Sizes]] = {}
    for node in graph.graph.nodes:
        if node.op in {"call_module", "call_function"}:
            inputs = [
                size
                for source in node.all_input_nodes
                if source.op != "get_attr"
                for size in shape_of(source)
            ]
            weights = (
                attribute(graph, str(node.target)).get_parameter("weight").shape if _is_layer(node) else ()
            )
            owner = str(node.target) if _is_layer(node) else node.name
            found.setdefault(owner, (len(inputs), (*inputs, *shape_of(node), *weights)))
    return found


def _is_layer(node: Node) -> bool:
    return bool(node.op == "call_module")


def covering(space: ArchitectureSpace, shapes: Shapes) -> tuple[Choices, ...]:
    """Architectures in which every owner has every shape that it may have.

    Greedy: each one begins with a shape that is still missing, and takes in whatever others go with it.
    """
    knobs = {knob.name: knob.choices for knob in space.knobs}
    full = dict(space.identity.choices)
    missing: dict[tuple[tuple[str, ...], Sizes], dict[str, int]] = {}
    for shape in shapes.owners.values():
        for combination in itertools.product(*(knobs[name] for name in shape.knobs)):
            chosen = dict(zip(shape.knobs, combination, strict=True))
            missing.setdefault((shape.knobs, shape.at(chosen)), chosen)
    found: list[Choices] = []
    while missing:
        together: dict[str, int] = {}
        for key, chosen in list(missing.items()):
            if all(together.get(name, choice) == choice for name, choice in chosen.items()):
                together |= chosen
                del missing[key]
        found.append({**full, **together})
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Anchor:
    """An architecture that was lowered at every resolution: what other widths cost there goes with it."""

    choices: Choices
    full: BitPrices
    at: Mapping[int, BitPrices]  # by resolution


@dataclass(frozen=True)
class ElasticPrices:
    """What `of` puts prices of an architecture together from.

    `rows`: the prices of a lowered architecture, by an owner and its sizes there. `channels`: which of a layer's sizes
    is that of its output channels, which scales and biases go with.
    """

    space: ArchitectureSpace
    shapes: Shapes
    rows: Mapping[str, Mapping[Sizes, BitPrices]]
    anchors: tuple[Anchor, ...]  # the network as it is first
    channels: Mapping[str, int]

    @property
    def refused(self) -> Mapping[QuantSpec, str]:
        """Bits that have no price, and why."""
        return self.anchors[0].full.refused

    def of(self, architecture: Architecture) -> BitPrices:
        """The prices of one architecture. Raises ConfigurationError for what is not in the space."""
        self.space.check(architecture)
        choices = {**self.space.identity.choices, **architecture.choices}
        gone = self.shapes.gone(choices)
        whole = self.anchors[0].full
        names = whole.prices.layers.keys() - gone
        rows = {name: self._row(name, choices) for name in names | whole.prices.glue.keys() - gone}
        scales = {name: self._scale(name, choices) for name in rows}
        layers = {
            name: {
                spec: scales[name].layer(name, spec, cost)
                for spec, cost in rows[name].prices.layers[name].items()
            }
            for name in names
        }
        glue = {
            name: scales[name].glue(name, row.prices.glue.get(name, Cost()))
            for name, row in rows.items()
            if name not in names
        }
        conversions = tuple(
            replace(self._conversion(found, choices), readers=found.readers - gone)
            for found in whole.prices.conversions
            if found.readers - gone
        )
        share = self._channels(names, choices) / self._channels(
            whole.prices.layers, self.space.identity.choices
        )
        return replace(
            whole,
            prices=LayerPrices(layers, conversions, glue),
            sizes={name: rows[name].sizes[name] for name in names},
            fixed_bytes=round(whole.fixed_bytes * share),
        )

    def _row(self, owner: str, choices: Choices) -> BitPrices:
        shape = self.shapes.owners.get(owner)
        return self.anchors[0].full if shape is None else self.rows[owner][shape.at(choices)]

    def _scale(self, owner: str, choices: Choices) -> "_Scale":
        """From the full resolution to the chosen one, as the anchor says whose shape is nearest."""
        anchor, shape = self.anchors[0], self.shapes.owners.get(owner)
        if shape is not None:
            sizes = np.array(shape.at(choices))

            def distance(one: Anchor) -> float:
                return float(np.abs(np.log(sizes / np.array(shape.at(one.choices)))).sum())

            anchor = min(self.anchors, key=distance)
        for knob in self.space.knobs:
            if knob.kind is KnobKind.RESOLUTION and choices[knob.name] != knob.choices[0]:
                return _Scale(anchor.full, anchor.at[choices[knob.name]])
        return _Scale(anchor.full, anchor.full)

    def _channels(self, names: Iterable[str], choices: Choices) -> int:
        return sum(self.shapes.owners[name].at(choices)[self.channels[name]] for name in names)

    def _conversion(self, found: Conversion, choices: Choices) -> Conversion:
        """The same where the value that is converted has the architecture's width."""
        reader = min(found.readers)
        shape = self.shapes.owners[reader]
        wanted = shape.at(choices)[: shape.num_inputs]
        row = next(row for sizes, row in self.rows[reader].items() if sizes[: shape.num_inputs] == wanted)
        return self._scale(reader, choices).conversion(_same_conversion(row, found) or found)


def _same_conversion(prices: BitPrices, found: Conversion) -> Conversion | None:
    alike = (one for one in prices.prices.conversions if one.act_bits == found.act_bits)
    return next((one for one in alike if one.readers == found.readers), None)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From one resolution to another."""

    full: BitPrices
    other: BitPrices

    def layer(self, name: str, spec: QuantSpec, cost: Cost) -> Cost:
        return _scaled(cost, self.full.prices.layers[name][spec], self.other.prices.layers[name][spec])

    def glue(self, name: str, cost: Cost) -> Cost:
        pair = (prices.prices.glue.get(name, Cost()) for prices in (self.full, self.other))
        return _scaled(cost, *pair)

    def conversion(self, found: Conversion) -> Conversion:
        full, other = (_same_conversion(prices, found) for prices in (self.full, self.other))
        if full is None or other is None:
            return found
        return replace(found, cost=_scaled(found.cost, full.cost, other.cost))


def _scaled(cost: Cost, full: Cost, other: Cost) -> Cost:
    return Cost(cost.amount * other.amount / full.amount, cost.calls) if full.amount > 0 else cost


Price: TypeAlias = Callable[[Sequence[tuple[GraphModule, Batch]]], tuple[BitPrices, ...]]


def price_space(
    canonical: GraphModule, space: ArchitectureSpace, whole: BitPrices, price: Price, note: Note
) -> ElasticPrices:
    """Price what covers the space: `price` does so for canonical graphs and their inputs, as `price_graphs`.

    `whole` are the prices of the network as it is.
    """
    shapes = find_shapes(canonical, space)
    anchored = _anchored(space)
    resolutions = [
        (knob.name, choice) for knob, choice in _smaller(space.knobs) if knob.kind is KnobKind.RESOLUTION
    ]
    small = [{**choices, knob: choice} for choices in anchored for knob, choice in resolutions]
    shown = [*anchored, *covering(space, shapes)]
    wanted = [choices for choices in _once([*shown, *small]) if choices != space.identity.choices]
    graphs = [specialise(canonical, space, Architecture(choices)) for choices in wanted]
    note(f"{len(graphs)} architectures stand for {space.size:,}")
    found = price([(graph, noise(graph)) for graph in graphs])
    refused = {**whole.refused, **(found[0].refused if found else {})}
    priced = [(space.identity.choices, replace(whole, refused=refused)), *zip(wanted, found, strict=True)]
    rows: dict[str, dict[Sizes, BitPrices]] = {}
    for choices, prices in priced:
        if choices in shown:  # what has another resolution is no row
            for owner, shape in shapes.owners.items():
                rows.setdefault(owner, {}).setdefault(shape.at(choices), prices)

    def of(choices: Choices) -> BitPrices:
        return next(prices for other, prices in priced if other == choices)

    return ElasticPrices(
        space,
        shapes,
        rows,
        anchors=tuple(
            Anchor(
                choices,
                of(choices),
                {choice: of({**choices, knob: choice}) for knob, choice in resolutions},
            )
            for choices in anchored
        ),
        channels={
            layer.name: shapes.owners[layer.name].num_inputs + _channel_dimension(layer)
            for layer in list_layers(canonical)
        },
    )


def _channel_dimension(layer: Layer) -> int:
    return len(layer.out_shape) - 1 if layer.kind is LayerKind.LINEAR else 1


def _once(architectures: Sequence[Choices]) -> list[Choices]:
    """Each of them once, in order."""
    return [one for index, one in enumerate(architectures) if one not in architectures[:index]]


def _anchored(space: ArchitectureSpace) -> tuple[Choices, ...]:
    """The network as it is, and with the middle and the least of all widths and kernel sizes."""

    def at(place: Callable[[int], int]) -> Choices:
        return {
            knob.name: knob.choices[place(len(knob.choices)) if knob.kind in _SHAPING else 0]
            for knob in space.knobs
        }

    return tuple(_once([at(lambda _: 0), at(lambda count: count // 2), at(lambda count: count - 1)]))


_SHAPING = (KnobKind.WIDTH, KnobKind.KERNEL)


def noise(graph: GraphModule) -> tuple[torch.Tensor, ...]:
    """Inputs of a graph. What values are does not matter to prices."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(shape_of(node), generator=generator)
        for node in graph.graph.nodes
        if node.op == "placeholder"
    )
