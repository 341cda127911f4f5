"""Specialise: one architecture of a space as a canonical graph of its own."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from haqnas.errors import ConfigurationError
from haqnas.graph.blocks import find_stages
from haqnas.graph.channels import map_channels
from haqnas.graph.choices import find_choices, settle, take_branches
from haqnas.graph.edit import attribute, copy_graph, finish
from haqnas.graph.kernel_size import crop_kernel, kernel_sizes
from haqnas.graph.layers import list_layers
from haqnas.graph.resize import resize_input
from haqnas.graph.widths import find_width_groups
from haqnas.rewrite.narrow import remove_channels
from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind
from haqnas.space.elastic import depth_name, kernel_name, operator_name, width_name

# By layer: (size**d, size**d) by side length, as `crop_kernel` takes them.
KernelTransforms = Mapping[str, Mapping[int, Tensor]]
NO_TRANSFORMS: KernelTransforms = MappingProxyType({})


def specialise(
    canonical: GraphModule,
    space: ArchitectureSpace,
    candidate: Architecture,
    transforms: KernelTransforms = NO_TRANSFORMS,
) -> GraphModule:
    """The canonical graph of a candidate, with the weights of `canonical`, which is unchanged.

    Blocks of `haqnas.nn.Choice` have one branch, the first one where the candidate says nothing. Widths keep the most
    important channels, in their order: a smaller width keeps some of those of a greater one, whatever the rest of the
    candidate. Nothing is trained: statistics of activations are others than before.
    Raises ConfigurationError for what is not in the space, and for a space of another network.
    """
    return finish(take_branches(narrow_down(canonical, space, candidate, transforms)))


def narrow_down(
    canonical: GraphModule,
    space: ArchitectureSpace,
    candidate: Architecture,
    transforms: KernelTransforms = NO_TRANSFORMS,
) -> GraphModule:
    """As `specialise`, but blocks of `haqnas.nn.Choice` that the candidate does not name keep all their branches."""
    changed = space.changes(candidate)
    by_kind = {
        kind: {knob.name: (knob, value) for knob, value in changed.items() if knob.kind is kind}
        for kind in KnobKind
    }
    graph = copy_graph(canonical)
    if by_kind[KnobKind.WIDTH]:
        graph = _with_widths(graph, by_kind[KnobKind.WIDTH])
    graph = _with_kernels(graph, by_kind[KnobKind.KERNEL], transforms)
    graph = _with_depths(graph, by_kind[KnobKind.DEPTH])
    graph = settle(graph, _branches(canonical, space, candidate))
    for knob, height in by_kind[KnobKind.RESOLUTION].values():
        resized = resize_input(graph, height)
        if resized is None:
            raise foreign_knob(knob)
        graph = resized
    return finish(graph)


_Chosen = Mapping[str, tuple[ArchitectureKnob, int]]


def foreign_knob(knob: ArchitectureKnob) -> ConfigurationError:
    """What is wrong with a space whose `knob` the network has not."""
    return ConfigurationError(
        f"the space was derived from another network: this one has no knob {knob.name} with {knob.choices[0]} as it "
        "is; derive the space from this very graph"
    )


def _require(chosen: _Chosen, found: Mapping[str, tuple[int, Sequence[str]]]) -> None:
    """Raise where the graph has not that much under a knob's name, or in other layers."""
    for name, (knob, _) in chosen.items():
        amount, layers = found.get(name, (0, ()))
        if amount != knob.choices[0] or not {*knob.layers} <= {*layers}:
            raise foreign_knob(knob)


def _with_widths(graph: GraphModule, chosen: _Chosen) -> GraphModule:
    channels = map_channels(graph)
    groups = {width_name(group): group for group in find_width_groups(graph, channels)}
    _require(chosen, {name: (len(group.units), group.layers) for name, group in groups.items()})
    removed = [groups[name].units[width:] for name, (_, width) in chosen.items()]
    return remove_channels(graph, channels, np.concatenate(removed))


def _with_depths(graph: GraphModule, chosen: _Chosen) -> GraphModule:
    stages = {depth_name(stage): stage for stage in find_stages(graph)}
    inside = {name: [layer for block in stage for layer in block.layers] for name, stage in stages.items()}
    _require(chosen, {name: (len(stage), inside[name]) for name, stage in stages.items()})
    nodes = {node.name: node for node in graph.graph.nodes}
    for name, (_, depth) in chosen.items():
        for block in reversed(stages[name][depth:]):
            nodes[block.result].replace_all_uses_with(nodes[block.source])
    return finish(graph)


def _branches(canonical: GraphModule, space: ArchitectureSpace, candidate: Architecture) -> dict[str, int]:
    """The branches that a candidate names, by the paths of their blocks."""
    blocks = {operator_name(block.path): block for block in find_choices(canonical)}
    knobs = [knob for knob in space.knobs if knob.kind is KnobKind.OPERATOR]
    for knob in knobs:
        if knob.name not in blocks or blocks[knob.name].names != knob.labels:
            raise foreign_knob(knob)
    named = candidate.choices
    return {blocks[knob.name].path: named[knob.name] for knob in knobs if knob.name in named}


def _with_kernels(graph: GraphModule, chosen: _Chosen, transforms: KernelTransforms) -> GraphModule:
    names = {kernel_name(layer.name): layer.name for layer in list_layers(graph)}
    sizes = {knob: (kernel_sizes(attribute(graph, name)), name) for knob, name in names.items()}
    _require(chosen, {knob: (found[0], (name,)) for knob, (found, name) in sizes.items() if found})
    for knob, (_, size) in chosen.items():
        name = names[knob]
        cropped = crop_kernel(attribute(graph, name), size, transforms.get(name, {}))
        graph.set_submodule(name, cropped)
    return finish(graph)
