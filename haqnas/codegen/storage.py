"""How values are stored: most as uint8; some, for machines that multiply signed numbers fast, as x - 128.

A convolution that reads each value many times would flip it each time; its producer stores it so for nothing.
A value is stored signed (its dtype is int8) where the kernels on both sides are of the families that can: convolutions
of 8 bits, sums that end in one, and as producers also depthwise convolutions. One output pixel reads each value once
for all its channels, so it gains nothing, and its kernels are spared a second form.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from haqnas.codegen.nodes import arguments, shape_of
from haqnas.graph import ops  # noqa: F401  registers the operators
from haqnas.kernels.table import signed_kinds

haqnas = torch.ops.haqnas

CONVOLUTIONS = (haqnas.qconv2d.default, haqnas.qconv2d_dequantize.default)
FEWEST_DEPTHWISE_CHANNELS = 8  # fewer are computed by kernels that know only uint8


def signed_values(
    graph: fx.Graph, fused: Mapping[fx.Node, fx.Node], isas: Sequence[str]
) -> frozenset[fx.Node]:
    """Nodes whose values are stored as x - 128 on a machine with `isas`.

    `fused`: sum -> the convolution that computes it.
    """
    kinds = signed_kinds(isas)
    if "dot" not in kinds:
        return frozenset()
    return frozenset(
        node
        for node in graph.nodes
        if _can_write(fused.get(node, node), kinds)
        and node.users
        and all(_can_read(u, node, fused) for u in node.users)
    )


def _can_write(producer: fx.Node, kinds: frozenset[str]) -> bool:
    if producer.target is not haqnas.qconv2d.default:
        return False
    channels, group_in = shape_of(arguments(producer)[1])[:2]
    is_depthwise = group_in == 1 and channels == arguments(producer)[7] and "depthwise" in kinds
    return _multiplies(producer) or (is_depthwise and channels >= FEWEST_DEPTHWISE_CHANNELS)


def _can_read(user: fx.Node, node: fx.Node, fused: Mapping[fx.Node, fx.Node]) -> bool:
    if user in fused:  # the sum's other operand is read by the convolution's kernel
        return fused[user] is not node and _multiplies(fused[user])
    return _multiplies(user) and arguments(user)[0] is node


def _multiplies(node: fx.Node) -> bool:
    """Whether a node is a convolution of the dot-product family. Fewer than 8 bits have kernels of their own."""
    if node.target not in CONVOLUTIONS or shape_of(node)[2:] == (1, 1):
        return False
    groups, *bits = arguments(node)[7:10]
    return bool(groups == 1 and bits == [8, 8])
