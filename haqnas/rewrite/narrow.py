"""Remove channels from a canonical graph: weights, biases and constants are sliced, sizes in operators follow."""

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class LayerPart:
    """The part of a layer that a narrower network has: indices, ascending; None for all."""

    rows: Tensor | None  # along dimension 0 of the weight
    columns: Tensor | None  # along dimension 1
    outputs: Tensor | None  # output channels
    groups: int

    def weight(self, whole: Tensor) -> Tensor:
        """Of the whole layer's weight; gradients reach it."""
        return _select(_select(whole, 0, self.rows), 1, self.columns)

    def per_channel(self, whole: Tensor) -> Tensor:
        """Of what has one value for each output channel: biases, factors of batch norms."""
        return _select(whole, 0, self.outputs)


def channel_masks(channels: ChannelMap, removed: NDArray[np.int64]) -> dict[str, Mask]:
    """Which channels of each value stay, by the name of its node, without the units `removed`."""
    keeps = np.isin(channels.tied, removed, invert=True)
    return {name: keeps[value.ids] for name, value in channels.values.items()}


def remove_channels(gm: fx.GraphModule, channels: ChannelMap, removed: NDArray[np.int64]) -> fx.GraphModule:
    """The graph without the units `removed`, which are sets of `channels.tied`; `gm` is unchanged."""
    narrow = copy_graph(gm)
    masks = channel_masks(channels, removed)
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
    part = layer_part(layer, masks.get(x.name), masks.get(node.name))
    if part is not None:
        weight, bias = part.weight(layer.weight.detach()), layer.bias
        bias = None if bias is None else part.per_channel(bias.detach())
        changes = {} if isinstance(layer, nn.Linear) else {"groups": part.groups}
        gm.set_submodule(str(node.target), rebuild_layer(layer, weight.contiguous(), bias, **changes))


def layer_part(layer: Layered, inputs: Mask | None, outputs: Mask | None) -> LayerPart | None:
    """What is left of a layer when its values lose channels; None where it stays whole.

    None for a mask stands for a value whose channels are not those that the layer reads, or makes: it stays whole.
    Channels of a grouped layer go by whole groups.
    """
    if all(mask is None or mask.all() for mask in (inputs, outputs)):
        return None
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    first, second = (inputs, outputs) if isinstance(layer, nn.ConvTranspose2d) else (outputs, inputs)
    if groups == 1:
        return LayerPart(_indices(first), _indices(second), _indices(outputs), 1)
    assert outputs is not None
    # Dimension 1 of a grouped weight counts inside one group, which stays whole.
    return LayerPart(_indices(first), None, _indices(outputs), int(outputs.reshape(groups, -1).any(1).sum()))


def _indices(mask: Mask | None) -> Tensor | None:
    return None if mask is None or mask.all() else torch.from_numpy(np.flatnonzero(mask))


def _select(values: Tensor, dim: int, indices: Tensor | None) -> Tensor:
    return values if indices is None else values.index_select(dim, indices)


def _narrow_call(node: fx.Node, masks: Mapping[str, Mask], dim: int) -> None:
    arguments = narrowed_arguments(node, masks, dim)
    if arguments is not None:
        node.args = tuple(
            emit_constant(node, str(old), new) if isinstance(new, Tensor) else new
            for old, new in zip(node.args, arguments, strict=True)
        )


def narrowed_arguments(node: fx.Node, masks: Mapping[str, Mask], dim: int) -> tuple[Any, ...] | None:
    """Arguments of an operator that follow its narrowed values; None where they stay as they are.

    `masks` by name of the node, `dim` that of this node's channels. Constants are given as tensors.
    """
    args: Any = node.args
    mask = masks[node.name]
    if is_call(node, *BINARY):
        rank = len(shape_of(node))
        return tuple(_narrow_constant(argument, mask, dim - rank) for argument in args)
    if is_call(node, aten.reshape.default):
        shape = list(args[1])
        shape[dim] = shape[dim] if shape[dim] == -1 else int(mask.sum())
        return args[0], shape
    if is_call(node, aten.slice.Tensor) and args[1] == dim:
        x, _, start, end, step = args
        before = masks[x.name]
        return x, dim, int(before[:start].sum()), int(before[:end].sum()), step
    if is_call(node, aten.constant_pad_nd.default):
        return _narrow_pads(node, mask, dim)
    return None


def _narrow_constant(argument: Any, mask: Mask, dim: int) -> Any:
    """A constant operand with one value a channel loses those of removed channels; `dim` counts from the end."""
    value = constant_of(argument)
    if value is None or value.dim() < -dim or value.shape[dim] == 1 or mask.all():
        return argument
    return _select(value, dim, _indices(mask)).contiguous()


def _narrow_pads(node: fx.Node, mask: Mask, dim: int) -> tuple[Any, ...] | None:
    first, last = channel_pads(node, dim)
    pads = list(node.args[1])  # type: ignore[arg-type]
    place = 2 * (len(shape_of(node)) - 1 - dim)
    if place >= len(pads):
        return None
    pads[place : place + 2] = int(mask[:first].sum()), int(mask[len(mask) - last :].sum())
    return node.args[0], pads, *node.args[2:]
