"""Residual blocks that keep the shape of their input: a network stays a network without them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from haqnas.graph.choices import find_choices
from haqnas.graph.edit import is_call, shape_of

aten = torch.ops.aten

_CLAMPS = (aten.relu.default, aten.hardtanh.default)
# What gives values between the least and the greatest of its input: they stay inside the bounds of a clamp.
_BETWEEN = (
    aten.max_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.reshape.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
)


@dataclass(frozen=True, slots=True)
class ResidualBlock:
    """`source` may take the place of `result`; both are names of nodes, `layers` those between them."""

    source: str
    result: str
    layers: tuple[str, ...]


def find_stages(gm: fx.GraphModule) -> tuple[tuple[ResidualBlock, ...], ...]:
    """Chains of blocks of a canonical graph, each block reading what the one before made; in graph order.

    A block is a sum `x + f(x)` where nothing but the sum reads what is inside of f, and an activation after it that
    changes nothing in x. Blocks that hold other blocks are left out: they are the network rather than a part of it.
    So are those in the branches of a `haqnas.nn.Choice`: a skip is a branch of its own there.
    """
    in_branches = {node for block in find_choices(gm) for branch in block.inside for node in branch}
    found = [(node, *block) for node in gm.graph.nodes if node not in in_branches for block in _block(node)]
    sums = {node for node, _, _ in found}
    stages: list[list[ResidualBlock]] = []
    ends: dict[fx.Node, list[ResidualBlock]] = {}  # what a stage made last, while no other block has read it
    for node, source, inside in found:
        if inside & sums:
            continue
        result = _closing(node, source)
        layers = [n for n in gm.graph.nodes if n in inside and n.op == "call_module"]
        block = ResidualBlock(
            source.name, result.name, tuple(dict.fromkeys(str(layer.target) for layer in layers))
        )
        stage = ends.pop(source, None)
        if stage is None:
            stages.append(stage := [])
        stage.append(block)
        ends |= dict.fromkeys((node, *_activation(node)), stage)
    return tuple(map(tuple, stages))


def _block(node: fx.Node) -> Iterator[tuple[fx.Node, set[fx.Node]]]:
    """(x, the nodes of f) where the node is x + f(x), and f has layers."""
    if not is_call(node, aten.add.Tensor):
        return
    left, right = node.args
    for source, branch in ((left, right), (right, left)):
        if not isinstance(source, fx.Node) or not isinstance(branch, fx.Node):
            return
        inside = _between(source, branch)
        is_closed = all(user is node or user in inside for n in inside for user in n.users)
        has_layers = any(n.op == "call_module" for n in inside)
        if is_closed and has_layers and source.op != "get_attr" and shape_of(source) == shape_of(node):
            yield source, inside
            return


def _between(source: fx.Node, branch: fx.Node) -> set[fx.Node]:
    """All that `branch` is computed from, up to `source`; nothing where it reads another input of the network."""
    inside: set[fx.Node] = set()
    left = [branch]
    while left:
        node = left.pop()
        if node.op == "placeholder" and node is not source:
            return set()
        if node is not source and node not in inside and node.op != "get_attr":
            inside.add(node)
            left += node.all_input_nodes
    return inside


def _activation(node: fx.Node) -> tuple[fx.Node, ...]:
    """The clamp that alone reads a node, if there is one."""
    users = tuple(node.users)
    return users if len(users) == 1 and is_call(users[0], *_CLAMPS) else ()


def _closing(node: fx.Node, source: fx.Node) -> fx.Node:
    """The clamp after a sum where it would change nothing in `source`, else the sum."""
    for clamp in _activation(node):
        value = source
        while is_call(value, *_BETWEEN):
            assert isinstance(value.args[0], fx.Node)
            value = value.args[0]
        if value.target == clamp.target and value.args[1:] == clamp.args[1:]:
            return clamp
    return node
