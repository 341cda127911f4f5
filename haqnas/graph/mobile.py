"""Mobile networks: where the stem, the inverted residual blocks and the head of a canonical graph are.

ProxylessNAS and Once-for-All time networks by such pieces. A piece is named by the nodes that it is made of: layers by
their paths in the user's model, other operators by the names of their nodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from haqnas.graph.edit import attribute, is_call, shape_of

aten = torch.ops.aten

_RELU = (aten.relu.default, aten.hardtanh.default)
_HARDSWISH = (aten.hardswish.default,)
_POOL = (aten.adaptive_avg_pool2d.default, aten.mean.dim, aten.avg_pool2d.default)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some neighbouring nodes; shapes are without the batch, channels first."""

    members: frozenset[str]  # paths of layers, names of other nodes
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """An inverted residual: 1x1 to `hidden` channels (or none), depthwise, 1x1 without an activation."""

    piece: Piece
    hidden: int
    kernel: int
    stride: int
    has_shortcut: bool
    excites: bool  # squeeze-and-excitation after the depthwise convolution
    is_hardswish: bool  # the activation; ReLU, ReLU6 or none otherwise


@dataclass(frozen=True, slots=True)
class Mobile:
    """The pieces of a mobile network, as far as the graph has them."""

    stem: Piece | None = None  # the convolution of the input
    blocks: tuple[Block, ...] = ()
    last: Piece | None = None  # 1x1 convolution after the blocks
    pool: Piece | None = None  # mean over the image
    mix: Piece | None = None  # a layer between the pool and the classifier
    classifier: Piece | None = None


def find_mobile(gm: fx.GraphModule) -> Mobile:
    """The pieces of a canonical graph of a mobile network; what belongs to none of them is in none."""
    stem = _stem(gm)
    taken = set(stem.members) if stem is not None else set()
    blocks: list[tuple[Block, fx.Node]] = []
    for node in gm.graph.nodes:
        found = _block_around(gm, node, taken)
        if found is not None:
            blocks.append(found)
            taken |= found[0].piece.members
    if not blocks:
        return Mobile(stem)
    last, pool, mix, classifier = _head(gm, blocks[-1][1])
    return Mobile(stem, tuple(block for block, _ in blocks), last, pool, mix, classifier)


def _block_around(gm: fx.GraphModule, depthwise: fx.Node, taken: set[str]) -> tuple[Block, fx.Node] | None:
    """The block of a depthwise convolution, with the node of its result; no member may be in `taken`."""
    conv = _single_conv(gm, depthwise)
    if conv is None or not _is_depthwise(conv):
        return None
    after = _activated(depthwise)
    gate = _gate(after[-1])
    chain = [*after, *gate]
    project = _only_reader(chain[-1])
    if project is None or not _is_pointwise(gm, project) or _activation(project) is not None:
        return None
    before = _expansion(gm, depthwise, taken)
    source = _source(before[0] if before else depthwise)
    activations = {_is_hardswish(nodes[-1]) for nodes in (before, after) if len(nodes) > 1}
    if len(activations) > 1:
        return None
    shortcut = _shortcut(project, source)
    nodes = [*before, *chain, project, *([shortcut] if shortcut else [])]
    block = Block(
        _piece(source, nodes),
        hidden=conv.in_channels,
        kernel=int(conv.kernel_size[0]),
        stride=int(conv.stride[0]),
        has_shortcut=shortcut is not None,
        excites=bool(gate),
        is_hardswish=True in activations,
    )
    return (block, nodes[-1]) if not block.piece.members & taken else None


def _expansion(gm: fx.GraphModule, depthwise: fx.Node, taken: set[str]) -> list[fx.Node]:
    """The 1x1 convolution before a depthwise one, with its activation, where nothing else reads them."""
    activation = _source(depthwise)
    if not is_call(activation, *_RELU, *_HARDSWISH) or _only_reader(activation) is None:
        return []
    conv = _source(activation)
    is_free = str(conv.target) not in taken and _only_reader(conv) is not None
    return [conv, activation] if is_free and _is_pointwise(gm, conv) else []


def _gate(value: fx.Node) -> list[fx.Node]:
    """Squeeze-and-excitation of a value: the nodes from it to its product with what was computed from its mean.

    Empty where there is none: where the product's other factor reads anything else, or is read by anything else.
    """
    products = [user for user in value.users if is_call(user, aten.mul.Tensor)]
    if len(products) != 1 or len(value.users) != 2:
        return []
    product = products[0]
    factors = [factor for factor in product.args if factor is not value]
    inside: list[fx.Node] = []
    node = factors[0] if len(factors) == 1 else None
    while isinstance(node, fx.Node) and node is not value:
        inside.insert(0, node)
        if len(node.users) != 1 or len(node.all_input_nodes) != 1:
            return []
        node = node.all_input_nodes[0]
    layers = sum(inner.op == "call_module" for inner in inside)
    is_gate = node is value and layers == 2 and is_call(inside[0], *_POOL)
    return [*inside, product] if is_gate else []


def _shortcut(project: fx.Node, source: fx.Node) -> fx.Node | None:
    """The sum of a block's result and its input."""
    reader = _only_reader(project)
    if reader is None or not is_call(reader, aten.add.Tensor):
        return None
    return reader if set(reader.args) == {project, source} else None


def _stem(gm: fx.GraphModule) -> Piece | None:
    """The convolution that reads the network's only input."""
    inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
    reader = _only_reader(inputs[0]) if len(inputs) == 1 else None
    conv = _single_conv(gm, reader) if reader is not None else None
    return _piece(inputs[0], _activated(reader)) if reader is not None and conv and conv.groups == 1 else None


def _head(gm: fx.GraphModule, result: fx.Node) -> tuple[Piece | None, ...]:
    """Last convolution, pool, mix and classifier, where they and nothing else stand after the last block."""
    steps = _steps(_chain(result))
    last = None
    if steps and _is_pointwise(gm, steps[0][0]):
        last, *steps = steps
    kinds = [is_call(step[0], *_POOL) for step in steps]
    if kinds not in ([True, False], [True, False, False]):
        return None, None, None, None
    pool, *layers = (_piece(_source(step[0]), step) for step in steps)
    if math.prod(pool.out_shape) != pool.in_shape[0]:
        return None, None, None, None
    mix = layers[0] if len(layers) == 2 else None
    return None if last is None else _piece(result, last), pool, mix, layers[-1]


def _chain(node: fx.Node) -> list[fx.Node]:
    """The nodes after this one to the network's output; none where they are not a chain."""
    found = []
    reader = _only_reader(node)
    while reader is not None and reader.op != "output":
        found.append(reader)
        reader = _only_reader(reader)
    return found if reader is not None else []


def _steps(nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """Layers and means over the image, each with the activations and reshapes after it; none if anything else is there.

    A mean over rows, then over columns, is one step.
    """
    steps: list[list[fx.Node]] = []
    for node in nodes:
        is_pool = is_call(node, *_POOL)
        is_second_mean = is_pool and steps and is_call(steps[-1][-1], *_POOL)
        if (node.op == "call_module" or is_pool) and not is_second_mean:
            steps.append([node])
        elif steps and (is_second_mean or is_call(node, *_RELU, *_HARDSWISH, aten.reshape.default)):
            steps[-1].append(node)
        else:
            return []
    return steps


def _piece(source: fx.Node, nodes: Sequence[fx.Node]) -> Piece:
    members = frozenset(str(node.target) if node.op == "call_module" else node.name for node in nodes)
    return Piece(members, shape_of(source)[1:], shape_of(nodes[-1])[1:])


def _activated(node: fx.Node) -> list[fx.Node]:
    """The node and its activation, where it has one."""
    activation = _activation(node)
    return [node] if activation is None else [node, activation]


def _activation(node: fx.Node) -> fx.Node | None:
    reader = _only_reader(node)
    return reader if is_call(reader, *_RELU, *_HARDSWISH) else None


def _is_hardswish(node: fx.Node) -> bool:
    return is_call(node, *_HARDSWISH)


def _source(node: fx.Node) -> fx.Node:
    assert isinstance(node.args[0], fx.Node)
    return node.args[0]


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _single_conv(gm: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """The convolution that a node calls, where no other node calls it."""
    if node.op != "call_module":
        return None
    module = attribute(gm, str(node.target))
    calls = sum(other.op == "call_module" and other.target == node.target for other in gm.graph.nodes)
    return module if isinstance(module, nn.Conv2d) and calls == 1 else None


def _is_depthwise(conv: nn.Conv2d) -> bool:
    """As blocks have it: a square filter of more than a pixel, and the same stride both ways."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.groups > 1
        and conv.kernel_size[0] == conv.kernel_size[1] > 1
        and conv.stride[0] == conv.stride[1]
        and set(conv.dilation) == {1}
    )


def _is_pointwise(gm: fx.GraphModule, node: fx.Node) -> bool:
    conv = _single_conv(gm, node)
    return conv is not None and conv.groups == 1 and set(conv.kernel_size) == set(conv.stride) == {1}
