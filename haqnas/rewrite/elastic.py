"""Run any network of an architecture space on shared weights, without making a graph for each.

What the knobs stand for is found in the canonical graph once (`read_structure`). A network is then a `Cut`: which parts
of layers it has, which arguments of operators follow, which nodes stand in for blocks that are dropped. Making one
takes a millisecond or two; `specialise` makes the same network as a graph of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx
from torch.fx import GraphModule

from haqnas.graph.blocks import ResidualBlock, find_stages
from haqnas.graph.channels import ChannelMap, map_channels
from haqnas.graph.choices import branches_of, choose_nodes, find_choices
from haqnas.graph.edit import attribute, shape_of
from haqnas.graph.kernel_size import kernel_sizes
from haqnas.graph.layers import list_layers
from haqnas.graph.resize import resize_input
from haqnas.graph.widths import WidthGroup, find_width_groups
from haqnas.rewrite.narrow import LayerPart, channel_masks, layer_part, narrowed_arguments
from haqnas.rewrite.specialise import foreign_knob
from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind
from haqnas.space.elastic import depth_name, operator_name, width_name


@dataclass(frozen=True, slots=True)
class Structure:
    """A canonical graph, and what the knobs of its space change in it. Its weights rank channels."""

    canonical: GraphModule
    space: ArchitectureSpace
    resized: Mapping[int, GraphModule]  # by height of the image
    channels: ChannelMap
    groups: Mapping[str, WidthGroup]  # by knob
    stages: Mapping[str, tuple[ResidualBlock, ...]]  # by knob
    blocks: Mapping[str, tuple[str, ...]]  # names of branches, by knob


@dataclass(frozen=True, slots=True)
class Cut:
    """One network of the space; nodes are those of `graph`, and named as in the canonical one."""

    graph: GraphModule
    nodes: tuple[fx.Node, ...]  # to be computed, in order; the last one is the output
    parts: Mapping[str, LayerPart]  # of layers that are narrower
    sizes: Mapping[str, int]  # of kernels that are smaller
    arguments: Mapping[str, tuple[Any, ...]]  # of operators where they follow widths, by node
    stand_ins: Mapping[fx.Node, fx.Node]  # what is read in the place of a node


def read_structure(canonical: GraphModule, space: ArchitectureSpace) -> Structure:
    """Find what the knobs stand for; raises ConfigurationError for a space of another network."""
    channels = map_channels(canonical)
    structure = Structure(
        canonical,
        space,
        {height: _resized(canonical, knob, height) for knob, height in _heights(space)},
        channels,
        {width_name(group): group for group in find_width_groups(canonical, channels)},
        {depth_name(stage): stage for stage in find_stages(canonical)},
        {operator_name(block.path): block.names for block in find_choices(canonical)},
    )
    for knob in space.knobs:
        if _amount(structure, knob) != knob.choices[0]:
            raise foreign_knob(knob)
    return structure


def _amount(structure: Structure, knob: ArchitectureKnob) -> int | None:
    """What the network has of what a knob sets, None where it has no such knob."""
    if knob.kind is KnobKind.WIDTH:
        group = structure.groups.get(knob.name)
        return None if group is None or not {*knob.layers} <= {*group.layers} else len(group.units)
    if knob.kind is KnobKind.DEPTH:
        stage = structure.stages.get(knob.name)
        return None if stage is None else len(stage)
    if knob.kind is KnobKind.OPERATOR:
        return knob.choices[0] if structure.blocks.get(knob.name) == knob.labels else None
    if knob.kind is KnobKind.KERNEL:
        layers = {layer.name for layer in list_layers(structure.canonical)}
        sizes = (
            kernel_sizes(attribute(structure.canonical, knob.layers[0])) if layers >= {*knob.layers} else ()
        )
        return sizes[0] if sizes else None
    image = next(node for node in structure.canonical.graph.nodes if node.op == "placeholder")
    return shape_of(image)[2]


def _heights(space: ArchitectureSpace) -> list[tuple[ArchitectureKnob, int]]:
    return [
        (knob, height)
        for knob in space.knobs
        if knob.kind is KnobKind.RESOLUTION
        for height in knob.choices[1:]
    ]


def _resized(canonical: GraphModule, knob: ArchitectureKnob, height: int) -> GraphModule:
    resized = resize_input(canonical, height)
    if resized is None:
        raise foreign_knob(knob)
    return resized


def cut_network(structure: Structure, candidate: Architecture) -> Cut:
    """What a candidate has of the canonical graph; raises ConfigurationError for what is not in the space."""
    changed = structure.space.changes(candidate)
    heights = [value for knob, value in changed.items() if knob.kind is KnobKind.RESOLUTION]
    graph = structure.resized[heights[0]] if heights else structure.canonical
    stand_ins = _stand_ins(structure, graph, changed)
    nodes = _needed(graph, stand_ins)
    parts, arguments = _narrowed(structure, nodes, changed)
    sizes = {knob.layers[0]: value for knob, value in changed.items() if knob.kind is KnobKind.KERNEL}
    return Cut(graph, nodes, parts, sizes, arguments, stand_ins)


_Changed = Mapping[ArchitectureKnob, int]


def _stand_ins(structure: Structure, graph: GraphModule, changed: _Changed) -> dict[fx.Node, fx.Node]:
    """What a dropped block read, the branch that a block with alternatives has: nodes that are computed themselves."""
    nodes = {node.name: node for node in graph.graph.nodes}
    dropped = {
        nodes[block.result]: nodes[block.source]
        for knob, value in changed.items()
        if knob.kind is KnobKind.DEPTH
        for block in structure.stages[knob.name][value:]
    }
    chosen = {knob.name: value for knob, value in changed.items() if knob.kind is KnobKind.OPERATOR}
    for node in choose_nodes(graph):
        dropped[node] = branches_of(node)[chosen.get(operator_name(str(node.args[1])), 0)]
    found: dict[fx.Node, fx.Node] = {}
    for node in (
        graph.graph.nodes if dropped else ()
    ):  # in order: what stands in may have been replaced itself
        if node in dropped:
            found[node] = found.get(dropped[node], dropped[node])
    return found


def read_values(structure: Structure, candidate: Architecture) -> dict[str, frozenset[str]]:
    """By layer of a candidate, the values that its calls read: names of nodes of the canonical graph."""
    graph = structure.canonical
    stand_ins = _stand_ins(structure, graph, structure.space.changes(candidate))
    found: dict[str, frozenset[str]] = {}
    for node in _needed(graph, stand_ins):
        if node.op == "call_module":
            (read,) = node.all_input_nodes
            value = stand_ins.get(read, read).name
            found[str(node.target)] = found.get(str(node.target), frozenset()) | {value}
    return found


def _needed(graph: GraphModule, stand_ins: Mapping[fx.Node, fx.Node]) -> tuple[fx.Node, ...]:
    """The nodes that the output is computed from; inputs in any case, as the network's arguments."""
    needed: set[fx.Node] = set()
    nodes = list(graph.graph.nodes)
    for node in reversed(nodes):
        if node in needed or node.op in ("placeholder", "output"):
            needed.add(node)
            needed |= {stand_ins.get(read, read) for read in node.all_input_nodes}
    return tuple(node for node in nodes if node in needed)


def _narrowed(
    structure: Structure, nodes: Sequence[fx.Node], changed: _Changed
) -> tuple[dict[str, LayerPart], dict[str, tuple[Any, ...]]]:
    """Parts of layers and arguments of operators at the widths of a candidate."""
    removed = [
        structure.groups[knob.name].units[width:]
        for knob, width in changed.items()
        if knob.kind is KnobKind.WIDTH
    ]
    if not removed:
        return {}, {}
    masks = channel_masks(structure.channels, np.concatenate(removed))
    parts: dict[str, LayerPart] = {}
    arguments: dict[str, tuple[Any, ...]] = {}
    for node in nodes:
        if node.op == "call_module":
            read = node.args[0]
            assert isinstance(read, fx.Node)
            layer = attribute(structure.canonical, str(node.target))
            part = layer_part(layer, masks.get(read.name), masks.get(node.name))
            if part is not None:
                parts[str(node.target)] = part
        elif node.op == "call_function" and node.name in masks:
            narrowed = narrowed_arguments(node, masks, structure.channels.values[node.name].dim)
            if narrowed is not None:
                arguments[node.name] = narrowed
    return parts, arguments


def run_cut(shared: GraphModule, cut: Cut, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of a network of the space; `shared` is what `share_weights` gave, `inputs` have the cut's resolution."""
    given = iter(inputs)
    values: dict[fx.Node, Any] = {}

    def read(node: fx.Node) -> Any:
        return values[cut.stand_ins.get(node, node)]

    for node in cut.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = attribute(cut.graph, str(node.target))
        elif node.op == "call_module":
            name = str(node.target)
            x = fx.map_arg(node.args[0], read)
            values[node] = attribute(shared, name)(x, cut.parts.get(name), cut.sizes.get(name))
        elif node.op == "call_function":
            args = fx.map_arg(cut.arguments.get(node.name, node.args), read)
            values[node] = node.target(*args, **fx.map_arg(node.kwargs, read))  # type: ignore[operator]
    outputs: Any = fx.map_arg(cut.nodes[-1].args[0], read)
    return tuple(outputs)
