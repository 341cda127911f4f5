"""The space of a search: knobs, which are groups of layers that get equal bits, and candidates, which set them all."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from haqnas.errors import ConfigurationError
from haqnas.graph.layers import list_layers
from haqnas.quantspec import QuantSpec
from haqnas.space.policy import Policy

WIDEST = QuantSpec(8, 8)


@dataclass(frozen=True, slots=True)
class Knob:
    """Layers that get equal bits, and the bits that they may get."""

    name: str
    layers: tuple[str, ...]
    choices: tuple[QuantSpec, ...]  # widest first


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All knobs of a network; every layer belongs to one."""

    knobs: tuple[Knob, ...]

    @property
    def size(self) -> int:
        """Number of candidates."""
        return math.prod(len(knob.choices) for knob in self.knobs)

    @property
    def specs(self) -> tuple[QuantSpec, ...]:
        """All bits that some layer may get, widest first."""
        return tuple(sorted({spec for knob in self.knobs for spec in knob.choices}, reverse=True))


@dataclass(frozen=True, slots=True)
class Candidate:
    """The bits of every knob, by its name."""

    choices: Mapping[str, QuantSpec]

    def policy(self, space: SearchSpace) -> Policy:
        """The bits of every layer."""
        return Policy(
            WIDEST, {layer: self.choices[knob.name] for knob in space.knobs for layer in knob.layers}
        )


@dataclass(frozen=True, slots=True)
class Pin:
    """Layers whose names match `glob` get exactly these bits."""

    glob: str
    spec: QuantSpec

    @classmethod
    def parse(cls, text: str) -> "Pin":
        """Read `layer4.*=w8a8`; raises ConfigurationError."""
        glob, equals, bits = text.rpartition("=")
        if not equals or not glob:
            raise ConfigurationError(
                f"a pin is written as GLOB=BITS, such as layer4.*=w8a8, but got {text!r}"
            )
        return cls(glob, QuantSpec.parse(bits))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user says of single layers, by globs of their names.

    `include`: only these are chosen for, all others stay at 8 bits. `exclude`: these stay at 8 bits.
    """

    pins: tuple[Pin, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def fixed(self, names: Sequence[str]) -> dict[str, QuantSpec]:
        """The layers among `names` that these rules leave no choice, with their bits; a pin goes before `exclude`.

        Raises ConfigurationError for a glob that matches no layer, and for pins that contradict each other.
        """
        found: dict[str, QuantSpec] = {}
        if self.include:
            kept = set(_matching(self.include, names, "--include"))
            found = {name: WIDEST for name in names if name not in kept}
        found |= dict.fromkeys(_matching(self.exclude, names, "--exclude"), WIDEST)
        pinned: dict[str, QuantSpec] = {}
        for pin in self.pins:
            for name in _matching([pin.glob], names, "--pin"):
                if pinned.setdefault(name, pin.spec) != pin.spec:
                    raise ConfigurationError(
                        f"--pin: {name} cannot have both {pinned[name]} and {pin.spec}; leave one of the pins out"
                    )
        return found | pinned


def derive_space(graph: GraphModule, legal: Sequence[QuantSpec], rules: Rules) -> SearchSpace:
    """One knob a layer of a canonical graph, with the `legal` bits and always w8a8.

    Layers that read one value need not agree: a value that is wanted at several widths is stored at 8 bits and narrowed
    for its reader. The first layers (they see the input) and the last ones (they make the output) stay at 8 bits where
    no rule of the user names them. Raises ConfigurationError for rules that do not fit.
    """
    names = [layer.name for layer in list_layers(graph)]
    named = set(_matching(rules.include, names, "--include"))
    fixed = {name: WIDEST for name in outermost_layers(graph) if name not in named} | rules.fixed(names)
    choices = tuple(sorted({WIDEST, *legal}, reverse=True))
    return SearchSpace(
        tuple(Knob(name, (name,), (fixed[name],) if name in fixed else choices) for name in names)
    )


def outermost_layers(graph: GraphModule) -> tuple[str, ...]:
    """Layers of a canonical graph with no other layer before or none after them, in graph order."""
    nodes = list(graph.graph.nodes)
    has_before = _beyond_a_layer(nodes, lambda node: node.all_input_nodes)
    has_after = _beyond_a_layer(nodes[::-1], lambda node: list(node.users))
    layers = [node for node in nodes if node.op == "call_module"]
    return tuple(
        dict.fromkeys(str(node.target) for node in layers if node not in has_before or node not in has_after)
    )


def _beyond_a_layer(nodes: Iterable[Node], neighbours: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """The nodes with a layer among all nodes before them, where `neighbours` are those next before."""
    found: set[Node] = set()
    for node in nodes:
        if any(near in found or near.op == "call_module" for near in neighbours(node)):
            found.add(node)
    return found


def _matching(globs: Iterable[str], names: Sequence[str], option: str) -> list[str]:
    found = []
    for glob in globs:
        matched = fnmatch.filter(names, glob)
        if not matched:
            raise ConfigurationError(
                f"{option}: no layer matches {glob!r}; the layers are {', '.join(names)}"
            )
        found += matched
    return found
