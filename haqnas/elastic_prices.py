"""Prices of every architecture of a space at every bits: latency, and packed bytes of weights.

What calls of a layer cost depends on its shapes, and they on a few knobs. So a few architectures are lowered, in which
every layer has every shape that it may have, and the prices of any other are put together from theirs. The resolution
is priced by its share of the cost at full widths. Depth takes away what the dropped blocks cost, an operator what the
other branches do. What this misses (fusions across what is gone) is seen where a candidate itself is lowered.

docs/architecture-space.md has the errors of this.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch.fx import GraphModule

from haqnas.bit_prices import Batch, BitPrices
from haqnas.elastic_shapes import Choices, Shapes, Sizes, covering, find_shapes, once, operator_settings
from haqnas.graph.edit import shape_of
from haqnas.graph.layers import Layer, LayerKind, list_layers
from haqnas.pricing import Conversion, Cost, LayerPrices
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.elastic import Structure, read_structure, read_values
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureSpace, KnobKind

Note = Callable[[str], None]


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
    is that of its output channels, which scales and biases go with. `known`: the conversions of all that was lowered;
    `same`: values that one conversion serves, by the name of each but one of them, to that one.
    """

    space: ArchitectureSpace
    structure: Structure
    shapes: Shapes
    rows: Mapping[str, Mapping[Sizes, BitPrices]]
    anchors: tuple[Anchor, ...]  # the network as it is first
    channels: Mapping[str, int]
    glue: frozenset[str]
    known: tuple[Conversion, ...]
    same: Mapping[str, str]

    @property
    def refused(self) -> Mapping[QuantSpec, str]:
        """Bits that have no price, and why."""
        return self.anchors[0].full.refused

    def of(self, architecture: Architecture) -> BitPrices:
        """The prices of one architecture. Raises ConfigurationError for what is not in the space."""
        self.space.check(architecture)
        whole, identity = self.anchors[0].full, self.space.identity.choices
        choices = {**identity, **architecture.choices}
        if choices == identity:
            return whole
        gone = self.shapes.gone(choices)
        names = self.channels.keys() - gone
        rows = {name: self._row(name, choices) for name in names | self.glue - gone}
        scales = {name: self._scale(name, choices) for name in rows}
        layers = {
            name: {
                spec: scales[name].layer(name, spec, cost)
                for spec, cost in rows[name].prices.layers[name].items()
            }
            for name in names
        }
        glue = {
            name: scales[name].glue(name, row.prices.glue[name])
            for name, row in rows.items()
            if name not in names and name in row.prices.glue
        }
        share = self._channels(names, choices) / self._channels(whole.prices.layers, identity)
        return replace(
            whole,
            prices=LayerPrices(layers, tuple(self._conversions(choices)), glue),
            sizes={name: rows[name].sizes[name] for name in names},
            fixed_bytes=round(whole.fixed_bytes * share),
        )

    def least(self, amount_of: Callable[[Architecture], float]) -> Architecture:
        """The architecture of least sizes and, one after the other, the operators of least amount."""
        least = self.space.least
        for knob in self.space.knobs:
            if knob.kind is KnobKind.OPERATOR:
                others = [Architecture({**least.choices, knob.name: choice}) for choice in knob.choices]
                least = min(others, key=amount_of)
        return least

    def _row(self, owner: str, choices: Choices) -> BitPrices:
        shape = self.shapes.owners.get(owner)
        return self.anchors[0].full if shape is None else self.rows[owner][shape.at(choices)]

    def _scale(self, owner: str, choices: Choices) -> "_Scale":
        """From the full resolution to the chosen one, as the anchor says whose shape is nearest."""
        anchor, shape = self.anchors[0], self.shapes.owners.get(owner)
        resolution = next((knob for knob in self.space.knobs if knob.kind is KnobKind.RESOLUTION), None)
        if resolution is None or choices[resolution.name] == resolution.choices[0]:
            return _Scale(anchor.full, anchor.full)
        if shape is not None:
            sizes = np.array(shape.at(choices))

            def distance(one: Anchor) -> float:
                return float(np.abs(np.log(sizes / np.array(shape.at(one.choices)))).sum())

            there = [one for one in self.anchors if owner not in self.shapes.gone(one.choices)]
            anchor = min(there, key=distance)
        return _Scale(anchor.full, anchor.at[choices[resolution.name]])

    def _channels(self, names: Iterable[str], choices: Choices) -> int:
        return sum(self.shapes.owners[name].at(choices)[self.channels[name]] for name in names)

    def _conversions(self, choices: Choices) -> Iterator[Conversion]:
        """One for each value and bits where some network that was lowered had it; its readers are those of this one."""
        values = {
            layer: frozenset(self.same.get(value, value) for value in read)
            for layer, read in read_values(self.structure, Architecture(choices)).items()
        }
        readers: dict[str, set[str]] = {}
        for layer, read in values.items():
            for value in read:
                readers.setdefault(value, set()).add(layer)
        told: set[tuple[str, int]] = set()
        for known in self.known:
            for layer in sorted(known.readers & values.keys()):
                for value in sorted(values[layer]):
                    if (value, known.act_bits) not in told:
                        told.add((value, known.act_bits))
                        yield from self._conversion(frozenset(readers[value]), known.act_bits, choices)

    def _conversion(self, readers: frozenset[str], act_bits: int, choices: Choices) -> Iterator[Conversion]:
        """As where the value that is converted has the architecture's width; none where it was converted nowhere."""
        for reader in sorted(readers):
            shape = self.shapes.owners[reader]
            wanted = shape.at(choices)[: shape.num_inputs]
            for sizes, row in self.rows[reader].items():
                if sizes[: shape.num_inputs] != wanted:
                    continue
                for found in row.prices.conversions:
                    if found.act_bits == act_bits and reader in found.readers:
                        yield replace(self._scale(reader, choices).conversion(found), readers=readers)
                        return


def _same_conversion(prices: BitPrices, found: Conversion) -> Conversion | None:
    alike = (one for one in prices.prices.conversions if one.act_bits == found.act_bits)
    return next((one for one in alike if one.readers == found.readers), None)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From one resolution to another."""

    full: BitPrices
    other: BitPrices

    def layer(self, name: str, spec: QuantSpec, cost: Cost) -> Cost:
        if self.full is self.other:
            return cost
        return _scaled(cost, self.full.prices.layers[name][spec], self.other.prices.layers[name][spec])

    def glue(self, name: str, cost: Cost) -> Cost:
        if self.full is self.other:
            return cost
        pair = (prices.prices.glue.get(name, Cost()) for prices in (self.full, self.other))
        return _scaled(cost, *pair)

    def conversion(self, found: Conversion) -> Conversion:
        if self.full is self.other:
            return found
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
    anchored = _anchored(space, shapes)
    resolutions = [
        (knob.name, choice)
        for knob in space.knobs
        if knob.kind is KnobKind.RESOLUTION
        for choice in knob.choices[1:]
    ]
    small = [{**choices, knob: choice} for choices in anchored for knob, choice in resolutions]
    shown = [*anchored, *covering(space, shapes)]
    wanted = [choices for choices in once([*shown, *small]) if choices != space.identity.choices]
    graphs = [specialise(canonical, space, Architecture(choices)) for choices in wanted]
    note(f"{len(graphs)} architectures stand for {space.size:,}")
    found = price([(graph, noise(graph)) for graph in graphs])
    refused = {**whole.refused, **(found[0].refused if found else {})}
    priced = [(space.identity.choices, replace(whole, refused=refused)), *zip(wanted, found, strict=True)]
    structure = read_structure(canonical, space)

    def of(choices: Choices) -> BitPrices:
        return next(prices for other, prices in priced if other == choices)

    return ElasticPrices(
        space,
        structure,
        shapes,
        _rows(shapes, [(choices, prices) for choices, prices in priced if choices in shown]),
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
        glue=frozenset(name for _, prices in priced for name in prices.prices.glue),
        known=tuple(dict.fromkeys(one for _, prices in priced for one in prices.prices.conversions)),
        same=_converted_together(structure, priced),
    )


def _rows(
    shapes: Shapes, priced: Sequence[tuple[Choices, BitPrices]]
) -> Mapping[str, Mapping[Sizes, BitPrices]]:
    rows: dict[str, dict[Sizes, BitPrices]] = {}
    for choices, prices in priced:
        gone = shapes.gone(choices)
        for owner, shape in shapes.owners.items():
            if owner not in gone:
                rows.setdefault(owner, {}).setdefault(shape.at(choices), prices)
    return rows


def _converted_together(
    structure: Structure, priced: Sequence[tuple[Choices, BitPrices]]
) -> Mapping[str, str]:
    """Values that one conversion serves, such as one and a view of it: `ElasticPrices.same`."""
    same: dict[str, str] = {}
    for choices, prices in priced:
        values = read_values(structure, Architecture(choices))
        for conversion in prices.prices.conversions:
            read = {
                value for layer in conversion.readers if len(values[layer]) == 1 for value in values[layer]
            }
            roots = {same.get(value, value) for value in read}
            if len(roots) > 1:
                first = min(roots)
                same = {value: first if root in roots else root for value, root in same.items()}
                same |= dict.fromkeys(roots - {first}, first)
    return same


def _channel_dimension(layer: Layer) -> int:
    return len(layer.out_shape) - 1 if layer.kind is LayerKind.LINEAR else 1


def _anchored(space: ArchitectureSpace, shapes: Shapes) -> tuple[Choices, ...]:
    """The network as it is, and with the middle and the least of all widths and kernel sizes.

    For other resolutions also those that show every branch of a block.
    """

    def at(place: Callable[[int], int]) -> Choices:
        return {
            knob.name: knob.choices[place(len(knob.choices)) if knob.kind in _SHAPING else 0]
            for knob in space.knobs
        }

    has_resolution = any(knob.kind is KnobKind.RESOLUTION for knob in space.knobs)
    others = operator_settings(space, shapes) if has_resolution else ()
    return tuple(once([at(lambda _: 0), at(lambda count: count // 2), at(lambda count: count - 1), *others]))


_SHAPING = (KnobKind.WIDTH, KnobKind.KERNEL)


def noise(graph: GraphModule) -> tuple[torch.Tensor, ...]:
    """Inputs of a graph. What values are does not matter to prices."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(shape_of(node), generator=generator)
        for node in graph.graph.nodes
        if node.op == "placeholder"
    )
