"""Shapes of all networks of a space: what each owner of calls may look like, and architectures that show all of it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch.fx import GraphModule, Node

from haqnas.graph.choices import CHOOSE, branches_of, choose_nodes, find_choices
from haqnas.graph.edit import attribute, is_call, shape_of
from haqnas.rewrite.specialise import narrow_down
from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind
from haqnas.space.elastic import operator_name

Sizes: TypeAlias = tuple[int, ...]
Choices: TypeAlias = Mapping[str, int]  # of all knobs, by name


@dataclass(frozen=True, slots=True)
class Shape:
    """Of an owner of calls: a layer, by its name, or another node, by its own.

    `sizes`: those of its inputs (the first `num_inputs`), of its output, of its weights, as the network is; then for an
    operator after a `haqnas.nn.Choice` the kind of what it reads, which may be fused with it. `changes`: what each
    choice of a knob adds to them; each channel belongs to one knob, so changes add up.
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
    """`absent`: the owners that a choice of a depth or an operator takes. `needs`: operators that an owner is of."""

    owners: Mapping[str, Shape]
    absent: Mapping[tuple[str, int], frozenset[str]]
    needs: Mapping[str, Choices]

    def gone(self, choices: Choices) -> frozenset[str]:
        """The owners that an architecture does without."""
        return frozenset().union(
            *(owners for (knob, choice), owners in self.absent.items() if choices[knob] == choice)
        )


def find_shapes(canonical: GraphModule, space: ArchitectureSpace) -> Shapes:
    """By trying each choice of each knob alone, all operators there; the resolution is left out."""
    whole = _facts(canonical)
    changes: dict[str, dict[tuple[str, int], Sizes]] = {owner: {} for owner in whole}
    absent: dict[tuple[str, int], frozenset[str]] = {}
    for knob, choice in _alone(space.knobs):
        cut = _facts(narrow_down(canonical, space, Architecture({knob.name: choice})))
        if knob.kind in (KnobKind.DEPTH, KnobKind.OPERATOR):
            absent[knob.name, choice] = frozenset(whole.keys() - cut.keys())
            continue
        for owner, (_, sizes) in whole.items():
            if cut[owner][1] != sizes:
                pairs = zip(cut[owner][1], sizes, strict=True)
                changes[owner][knob.name, choice] = tuple(a - b for a, b in pairs)
    kinds = _kinds_read(canonical, space)
    owners = {
        owner: _with_kinds(Shape(sizes, count, changes[owner]), kinds.get(owner, ()))
        for owner, (count, sizes) in whole.items()
    }
    return Shapes(owners, absent, {owner: _needs(owner, absent, space) for owner in whole})


def _alone(knobs: Sequence[ArchitectureKnob]) -> Iterator[tuple[ArchitectureKnob, int]]:
    """What is tried; the first branch of a block takes the others away."""
    for knob in knobs:
        if knob.kind is not KnobKind.RESOLUTION:
            for choice in knob.choices if knob.kind is KnobKind.OPERATOR else knob.choices[1:]:
                yield knob, choice


def _facts(graph: GraphModule) -> dict[str, tuple[int, Sizes]]:
    """By owner: how many sizes its inputs have, and all sizes, of its first call."""
    found: dict[str, tuple[int, Sizes]] = {}
    for node in graph.graph.nodes:
        if node.op in {"call_module", "call_function"} and not is_call(node, CHOOSE):
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


def _needs(owner: str, absent: Mapping[tuple[str, int], frozenset[str]], space: ArchitectureSpace) -> Choices:
    """The first choices of operators with which an owner is there, of those that it is not always there with."""
    found: dict[str, int] = {}
    for knob in space.knobs:
        if knob.kind is KnobKind.OPERATOR:
            there = [choice for choice in knob.choices if owner not in absent[knob.name, choice]]
            if len(there) < len(knob.choices):
                found[knob.name] = there[0]
    return found


_Kinds: TypeAlias = tuple[str, Mapping[int, int]]  # a knob, and a number for the kind of each of its choices


def _kinds_read(canonical: GraphModule, space: ArchitectureSpace) -> dict[str, tuple[_Kinds, ...]]:
    """By operator that reads what a block gives: whether that is of a layer, of another operator, or from before it.

    Sums and activations are fused with a layer that alone they read.
    """
    knobs = {knob.name: knob for knob in space.knobs}
    inside = {operator_name(block.path): block.inside for block in find_choices(canonical)}
    found: dict[str, tuple[_Kinds, ...]] = {}
    for node in choose_nodes(canonical):
        name = operator_name(str(node.args[1]))
        if name not in knobs:
            continue
        kinds = {
            choice: 3 if made not in inside[name][choice] else 1 if _is_layer(made) else 2
            for choice, made in enumerate(branches_of(node))
            if choice in knobs[name].choices
        }
        for user in node.users:
            if user.op == "call_function" and not is_call(user, CHOOSE) and len({*kinds.values()}) > 1:
                found[user.name] = (*found.get(user.name, ()), (name, kinds))
    return found


def _with_kinds(shape: Shape, kinds: Sequence[_Kinds]) -> Shape:
    for name, numbers in kinds:
        first = numbers[0]
        changes = {key: (*change, 0) for key, change in shape.changes.items()}
        no_change = (0,) * len(shape.sizes)
        for choice, number in numbers.items():
            if number != first:
                before = changes.get((name, choice), (*no_change, 0))
                changes[name, choice] = (*before[:-1], number - first)
        shape = Shape((*shape.sizes, first), shape.num_inputs, changes)
    return shape


def covering(space: ArchitectureSpace, shapes: Shapes) -> tuple[Choices, ...]:
    """Architectures in which every owner has every shape that it may have."""
    knobs = {knob.name: knob.choices for knob in space.knobs}
    wanted: dict[tuple[Sizes, tuple[str, ...], frozenset[tuple[str, int]]], Choices] = {}
    for owner, shape in shapes.owners.items():
        needs = shapes.needs[owner]
        for combination in itertools.product(*(knobs[name] for name in shape.knobs)):
            chosen = dict(zip(shape.knobs, combination, strict=True))
            if all(chosen.get(name, choice) == choice for name, choice in needs.items()):
                whole = {**space.identity.choices, **needs, **chosen}
                wanted.setdefault(
                    (shape.at(whole), shape.knobs, frozenset(needs.items())), {**needs, **chosen}
                )
    return _together(space, wanted.values())


def operator_settings(space: ArchitectureSpace, shapes: Shapes) -> tuple[Choices, ...]:
    """Architectures of all sizes as they are in which every owner is there once; the network as it is first."""
    needs = [
        {},
        *(dict(items) for items in dict.fromkeys(tuple(one.items()) for one in shapes.needs.values())),
    ]
    return tuple(once([space.identity.choices, *_together(space, needs)]))


def _together(space: ArchitectureSpace, wanted: Iterable[Choices]) -> tuple[Choices, ...]:
    """Architectures that hold each of some partial ones.

    Greedy: each one begins with what is still missing, and takes in whatever others go with it.
    """
    missing = list(wanted)
    found: list[Choices] = []
    while missing:
        together: dict[str, int] = {}
        left: list[Choices] = []
        for chosen in missing:
            if all(together.get(name, choice) == choice for name, choice in chosen.items()):
                together |= chosen
            else:
                left.append(chosen)
        missing = left
        found.append({**space.identity.choices, **together})
    return tuple(found)


def once(architectures: Sequence[Choices]) -> list[Choices]:
    """Each of them once, in order."""
    return [one for index, one in enumerate(architectures) if one not in architectures[:index]]
