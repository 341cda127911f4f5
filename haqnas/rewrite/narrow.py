"""Remove channels from a canonical graph: weights, biases and constants are sliced, sizes in operators follow."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from haqnas.graph.channels import ChannelMap, channel_pads
from haqnas.graph.edit import (
    attribute,
    constant_of,
    copy_graph,
    emit_constant,
    finish,
    infer_value,
    is_call,
    shape_of,
)
from haqnas.graph.functions import BINARY
from haqnas.graph.parametrise import Layered, rebuild_layer

aten = torch.ops.aten
Mask = NDArray[np.bool_]


def remove_channels(gm: fx.GraphModule, channels: ChannelMap, removed: NDArray[np.int64]) -> fx.GraphModule:
    """The graph without the units `removed`, which are sets of `channels.tied`; `gm` is unchanged."""
    narrow = copy_graph(gm)
    keeps = np.isin(channels.tied, removed, invert=True)
    masks = {name: keeps[value.ids] for name, value in channels.values.items()}
    dims = {name: value.dim for name, value in channels.values.items()}
    for node in list(narrow.graph.nodes):
        if node.op == "call_module":
            _narrow_layer(narrow, node, masks)
        elif node.op == "call_function" and node.name in masks:
            _narrow_call(node, masks, dims[node.name])
        infer_value(node)
    return finish(narrow)


def _narrow_layer(gm: fx.GraphModule, node: fx.Node, masks: Mapping[str, Mask]) -> None:
    layer, x = attribute(gm, str(node.target)), node.args[0]
    assert isinstance(x, fx.Node)
    # A value whose channels are not those that the layer reads, or makes, is never narrowed: its mask keeps all.
    inputs, outputs = masks.get(x.name), masks.get(node.name)
    is_smaller = any(mask is not None and not mask.all() for mask in (inputs, outputs))
    if is_smaller:
        gm.set_submodule(str(node.target), _sliced(layer, inputs, outputs))


def _sliced(layer: Layered, inputs: Mask | None, outputs: Mask | None) -> Layered:
    """The layer with some of its input and output channels; those of a grouped one go by whole groups."""
    weight, bias = layer.weight.detach(), layer.bias
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    changes = {}
    if groups > 1:
        assert outputs is not None
        changes["groups"] = int(outputs.reshape(groups, -1).any(1).sum())
    # Dimension 1 of a grouped weight counts inside one group, which stays whole.
    first, second = (inputs, outputs) if is_transposed else (outputs, inputs)
    for dim, mask in ((0, first), (1, second if groups == 1 else None)):
        if mask is not None and not mask.all():
            weight = weight.index_select(dim, _indices(mask))
    if bias is not None:
        bias = bias.detach() if outputs is None else bias.detach()[_indices(outputs)]
    return rebuild_layer(layer, weight.contiguous(), bias, **changes)


def _indices(mask: Mask) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))


def _narrow_call(node: fx.Node, masks: Mapping[str, Mask], dim: int) -> None:
    """Let sizes among the arguments of an operator follow."""
    args: Any = node.args
    if is_call(node, *BINARY):
        rank = len(shape_of(node))
        node.args = tuple(_narrow_constant(node, argument, masks[node.name], dim - rank) for argument in args)
    elif is_call(node, aten.reshape.default):
        shape = list(args[1])
        shape[dim] = shape[dim] if shape[dim] == -1 else int(masks[node.name].sum())
        node.args = (args[0], shape)
    elif is_call(node, aten.slice.Tensor) and args[1] == dim:
        x, _, start, end, step = args
        before = masks[x.name]
        node.args = (x, dim, int(before[:start].sum()), int(before[:end].sum()), step)
    elif is_call(node, aten.constant_pad_nd.default):
        _narrow_pads(node, masks[node.name], dim)


def _narrow_constant(node: fx.Node, argument: Any, mask: Mask, dim: int) -> Any:
    """A constant operand with one value a channel loses those of removed channels; `dim` counts from the end."""
    value = constant_of(argument)
    if value is None or value.dim() < -dim or value.shape[dim] == 1 or mask.all():
        return argument
    return emit_constant(node, argument.name, value.index_select(dim, _indices(mask)).contiguous())


def _narrow_pads(node: fx.Node, mask: Mask, dim: int) -> None:
    first, last = channel_pads(node, dim)
    pads = list(node.args[1])  # type: ignore[arg-type]
    place = 2 * (len(shape_of(node)) - 1 - dim)
    if place < len(pads):
        pads[place : place + 2] = int(mask[:first].sum()), int(mask[len(mask) - last :].sum())
        node.args = (node.args[0], pads, *node.args[2:])
