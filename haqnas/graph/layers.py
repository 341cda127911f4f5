"""Facts about the layers of a canonical graph: what can be quantized, and what it costs."""

import math
from dataclasses import dataclass
from enum import StrEnum

from torch import fx, nn

from haqnas.graph.edit import attribute, shape_of

FLOAT32_BYTES = 4


class LayerKind(StrEnum):
    """What a layer computes; depthwise means one group per input channel."""

    CONV1D = "conv1d"
    CONV2D = "conv2d"
    DEPTHWISE_CONV1D = "depthwise_conv1d"
    DEPTHWISE_CONV2D = "depthwise_conv2d"
    CONV_TRANSPOSE2D = "conv_transpose2d"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with weights, under its path in the user's model; shapes are those of its first call."""

    name: str
    kind: LayerKind
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    macs: int  # multiply-accumulates at batch 1, over all calls
    num_weights: int
    weight_bytes: int  # as float32, without the bias
    num_calls: int


def list_layers(gm: fx.GraphModule) -> tuple[Layer, ...]:
    """The layers of a canonical graph in the order of their first call."""
    calls: dict[str, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return tuple(_describe(attribute(gm, name), name, nodes) for name, nodes in calls.items())


def _describe(module: nn.Module, name: str, nodes: list[fx.Node]) -> Layer:
    weight = module.get_parameter("weight")
    first = nodes[0]
    assert isinstance(first.args[0], fx.Node)
    return Layer(
        name=name,
        kind=_kind(module),
        in_shape=shape_of(first.args[0]),
        out_shape=shape_of(first),
        macs=sum(_macs(module, node) for node in nodes),
        num_weights=weight.numel(),
        weight_bytes=weight.numel() * FLOAT32_BYTES,
        num_calls=len(nodes),
    )


def _kind(module: nn.Module) -> LayerKind:
    if isinstance(module, nn.Linear):
        return LayerKind.LINEAR
    if isinstance(module, nn.ConvTranspose2d):
        return LayerKind.CONV_TRANSPOSE2D
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    is_depthwise = module.groups > 1 and module.groups == module.in_channels
    rank = "1d" if isinstance(module, nn.Conv1d) else "2d"
    return LayerKind(f"depthwise_conv{rank}" if is_depthwise else f"conv{rank}")


def _macs(module: nn.Module, node: fx.Node) -> int:
    """Each weight of a convolution meets each output pixel (input pixel, if transposed); of a linear, each row."""
    assert isinstance(node.args[0], fx.Node)
    if isinstance(module, nn.Linear):
        rows = math.prod(shape_of(node)[:-1])
    else:
        counted = node.args[0] if isinstance(module, nn.ConvTranspose2d) else node
        rows = math.prod(shape_of(counted)[2:])
    return rows * module.get_parameter("weight").numel()
