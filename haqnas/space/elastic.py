"""Derive the space of architectures that a canonical graph proves to be legal."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import GraphModule

from haqnas.errors import ConfigurationError
from haqnas.graph.blocks import ResidualBlock, find_stages
from haqnas.graph.channels import map_channels
from haqnas.graph.choices import find_choices
from haqnas.graph.edit import attribute, copy_graph, shape_of
from haqnas.graph.kernel_size import kernel_sizes
from haqnas.graph.layers import list_layers
from haqnas.graph.resize import resize_input
from haqnas.graph.widths import WidthGroup, find_width_groups
from haqnas.space.architecture import ArchitectureKnob, ArchitectureSpace, KnobKind


@dataclass(frozen=True, slots=True)
class Elasticity:
    """How far sizes may shrink: shares of what the network has.

    Widths are rounded to `channel_multiple`, which vector kernels work on without a rest.
    """

    width_shares: tuple[float, ...] = (0.75, 0.5)
    channel_multiple: int = 8
    resolution_shares: tuple[float, ...] = (0.875, 0.75, 0.625, 0.5)


def derive_architecture_space(graph: GraphModule, elasticity: Elasticity = Elasticity()) -> ArchitectureSpace:
    """All knobs of a canonical graph: resolution, operators, depths of stages, widths of groups, kernel sizes.

    Each kind is in graph order. Operators are those of graphs that were traced with `branches`.
    """
    graph = copy_graph(graph)  # without what nothing reads
    return ArchitectureSpace(
        (
            *_resolution(graph, elasticity),
            *_operators(graph),
            *_depths(graph),
            *_widths(graph, elasticity),
            *_kernels(graph),
        )
    )


def searched_space(canonical: GraphModule) -> ArchitectureSpace:
    """The knobs that a compilation may turn: not the resolution, as the binary's users give it images of one size.

    Raises ConfigurationError where there is none.
    """
    space = derive_architecture_space(canonical)
    knobs = tuple(knob for knob in space.knobs if knob.kind is not KnobKind.RESOLUTION)
    if not knobs:
        raise ConfigurationError(
            "--architecture auto: nothing of this network's architecture can be proven to be free (haqnas inspect "
            "MODEL --space); leave the option out to search for bits alone"
        )
    return ArchitectureSpace(knobs)


def _resolution(graph: GraphModule, elasticity: Elasticity) -> Iterator[ArchitectureKnob]:
    image = next(node for node in graph.graph.nodes if node.op == "placeholder")
    height = shape_of(image)[2] if len(shape_of(image)) == 4 else 0
    wanted = sorted({share * height for share in elasticity.resolution_shares}, reverse=True)
    heights = [int(h) for h in wanted if h == int(h) and 0 < h < height]
    legal = [h for h in heights if resize_input(graph, h) is not None]
    if legal:
        layers = tuple(layer.name for layer in list_layers(graph))
        yield ArchitectureKnob(
            f"{KnobKind.RESOLUTION}:{image.name}", KnobKind.RESOLUTION, layers, (height, *legal)
        )


def _operators(graph: GraphModule) -> Iterator[ArchitectureKnob]:
    """A block may have any of its branches; those without layers not where nothing but blocks has layers."""
    has_others = _has_layers_beside_blocks(graph)
    for block in find_choices(graph):
        has_layers = [any(node.op == "call_module" for node in nodes) for nodes in block.inside]
        choices = tuple(number for number, has in enumerate(has_layers) if has or has_others or number == 0)
        if len(choices) > 1:
            name = operator_name(block.path)
            yield ArchitectureKnob(name, KnobKind.OPERATOR, block.layers, choices, labels=block.names)


def _has_layers_beside_blocks(graph: GraphModule) -> bool:
    """Whether a network is left without all that may go."""
    inside = {name for stage in find_stages(graph) for block in stage for name in block.layers}
    inside |= {name for block in find_choices(graph) for name in block.layers}
    return inside != {layer.name for layer in list_layers(graph)}


def _depths(graph: GraphModule) -> Iterator[ArchitectureKnob]:
    """A stage may lose all its blocks, unless nothing but blocks has layers."""
    stages = find_stages(graph)
    least = 0 if _has_layers_beside_blocks(graph) else 1
    for stage in stages:
        if len(stage) > least:
            layers = tuple(name for block in stage[least:] for name in block.layers)
            choices = tuple(range(len(stage), least - 1, -1))
            yield ArchitectureKnob(depth_name(stage), KnobKind.DEPTH, layers, choices)


def _widths(graph: GraphModule, elasticity: Elasticity) -> Iterator[ArchitectureKnob]:
    for group in find_width_groups(graph, map_channels(graph)):
        count = len(group.units)
        multiple = elasticity.channel_multiple // math.gcd(
            elasticity.channel_multiple, group.channels_per_unit
        )
        wanted = {round(share * count / multiple) * multiple for share in elasticity.width_shares}
        smaller = sorted((width for width in wanted if 0 < width < count), reverse=True)
        if smaller:
            yield ArchitectureKnob(width_name(group), KnobKind.WIDTH, group.layers, (count, *smaller))


def _kernels(graph: GraphModule) -> Iterator[ArchitectureKnob]:
    for layer in list_layers(graph):
        sizes = kernel_sizes(attribute(graph, layer.name))
        if sizes:
            yield ArchitectureKnob(kernel_name(layer.name), KnobKind.KERNEL, (layer.name,), sizes)


def operator_name(path: str) -> str:
    """Name of the knob of a `haqnas.nn.Choice`: after its path in the model."""
    return f"{KnobKind.OPERATOR}:{path}"


def depth_name(stage: tuple[ResidualBlock, ...]) -> str:
    """Name of a stage's knob: after its first layer."""
    return f"{KnobKind.DEPTH}:{stage[0].layers[0]}"


def width_name(group: WidthGroup) -> str:
    """Name of a group's knob: after its first layer."""
    return f"{KnobKind.WIDTH}:{group.name}"


def kernel_name(layer: str) -> str:
    """Name of the knob of a layer's kernel."""
    return f"{KnobKind.KERNEL}:{layer}"
