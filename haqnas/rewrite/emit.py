"""Emit `haqnas::` operators: one function per kind of operator, into an integer graph under construction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

import haqnas.graph.ops as _registered  # noqa: F401  importing it registers the operators
from haqnas.graph.edit import inherited_meta
from haqnas.rewrite.fixed_point import (
    add_multipliers,
    check_accumulator,
    clamp_integers,
    integer_bias,
    table_of,
)
from haqnas.rewrite.kinds import argument, aten, is_layer, spatial_mean, tensor_inputs
from haqnas.rewrite.quants import ActQuant, IntegerWeight

ops = torch.ops.haqnas

Bounds = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Stored:
    """An integer value: its node in the integer graph and its quantization."""

    node: Node
    quant: ActQuant


@dataclass(frozen=True)
class Target:
    """The integer graph under construction; `graph` and `root` grow, the source is only read."""

    source: GraphModule
    graph: Graph = field(default_factory=Graph)
    root: nn.Module = field(default_factory=nn.Module)
    constants: dict[str, Node] = field(default_factory=dict)

    def placeholder(self, near: Node) -> Node:
        return self._marked(self.graph.placeholder(str(near.target)), near)

    def call(self, near: Node, operator: Any, *args: Any, **kwargs: Any) -> Node:
        """Emit a call on behalf of the node `near` of the source graph."""
        return self._marked(self.graph.call_function(operator, args, kwargs), near)

    def constant(self, near: Node, name: str, value: Tensor) -> Node:
        """A `get_attr` of a tensor; a name that is taken by the same bits gives the same node."""
        key = re.sub(r"\W", "_", name)
        if key[0].isdigit() or key.startswith("__"):  # nn.Sequential names its layers by numbers
            key = f"layer_{key}"
        while key in self.constants and not torch.equal(self.root.get_buffer(key), value):
            key += "_"
        if key not in self.constants:
            self.root.register_buffer(key, value)
            self.constants[key] = self._marked(self.graph.get_attr(key), near)
        return self.constants[key]

    def _marked(self, made: Node, near: Node) -> Node:
        made.meta["layer"] = str(near.target) if is_layer(self.source, near) else near.name
        made.meta.update(inherited_meta(near))
        return made


def emit_layer(
    target: Target, near: Node, x: Stored, weight: IntegerWeight, out: ActQuant | None, bounds: Bounds
) -> Node:
    """A convolution or linear layer; to float32 where `out` is None. Raises UnsupportedModelError on overflow."""
    name = str(near.target)
    layer = target.source.get_submodule(name)
    accumulator_scale = weight.scale.to(torch.float64) * x.quant.scale
    bias = integer_bias(layer.bias, accumulator_scale)  # type: ignore[arg-type]
    check_accumulator(name, weight.values, int(isinstance(layer, nn.ConvTranspose2d)), bias, x.quant)
    scale = (accumulator_scale if out is None else accumulator_scale / out.scale).to(torch.float32)
    is_1d = isinstance(layer, nn.Conv1d)
    values = weight.values.unsqueeze(2) if is_1d else weight.values
    constants = (
        target.constant(near, f"{name}_weight", values),
        target.constant(near, f"{name}_bias", bias),
        target.constant(near, f"{name}_scale", scale),
    )
    numbers = [weight.bits, x.quant.bits, x.quant.zero_point]
    numbers += [] if out is None else [out.zero_point, *clamp_integers(out, bounds)]
    operator, geometry = _layer_operator(layer, is_float=out is None)
    read = _with_height(target, near, x.node) if is_1d else x.node
    made = target.call(near, operator, read, *constants, *geometry, *numbers)
    return _without_height(target, near, made) if is_1d else made


def _layer_operator(layer: nn.Module, is_float: bool) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(layer, nn.Linear):
        return (ops.qlinear_dequantize if is_float else ops.qlinear).default, ()
    stride, padding, dilation = (
        _pair(getattr(layer, name), fill) for name, fill in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    if isinstance(layer, nn.ConvTranspose2d):
        operator = (ops.qconv_transpose2d_dequantize if is_float else ops.qconv_transpose2d).default
        return operator, (stride, padding, _pair(layer.output_padding, 0), dilation, layer.groups)
    operator = (ops.qconv2d_dequantize if is_float else ops.qconv2d).default
    return operator, (stride, padding, dilation, layer.groups)


def _pair(values: Sequence[int], fill: int) -> list[int]:
    """Two spatial numbers; a one-dimensional layer gets `fill` for the height."""
    return [fill] * (2 - len(values)) + [int(value) for value in values]


def _with_height(target: Target, near: Node, x: Node) -> Node:
    channels, length = tensor_inputs(near)[0].meta["val"].shape[1:]
    return target.call(near, aten.reshape.default, x, [-1, channels, 1, length])


def _without_height(target: Target, near: Node, x: Node) -> Node:
    return target.call(near, aten.reshape.default, x, [-1, *near.meta["val"].shape[1:]])


def emit_add(target: Target, near: Node, a: Stored, b: Stored, out: ActQuant, bounds: Bounds) -> Node:
    """a + b or a - b."""
    sign = -1 if near.target is aten.sub.Tensor else 1
    left, right, shift = add_multipliers(a.quant, b.quant, out, sign)
    numbers = (a.quant.zero_point, left, b.quant.zero_point, right, shift)
    low, high = clamp_integers(out, bounds)
    return target.call(near, ops.qadd.default, a.node, b.node, *numbers, out.zero_point, low, high)


def emit_multiply(target: Target, near: Node, a: Stored, b: Stored, out: ActQuant, bounds: Bounds) -> Node:
    """a * b."""
    scale = a.quant.scale * b.quant.scale / out.scale
    low, high = clamp_integers(out, bounds)
    zero_points = (a.quant.zero_point, b.quant.zero_point)
    return target.call(near, ops.qmul.default, a.node, b.node, *zero_points, scale, out.zero_point, low, high)


def emit_average(target: Target, near: Node, x: Stored, out: ActQuant, bounds: Bounds) -> Node:
    """Average pooling, adaptive average pooling, mean over all pixels."""
    numbers = (x.quant.scale / out.scale, x.quant.zero_point, out.zero_point, *clamp_integers(out, bounds))
    if near.target is aten.avg_pool2d.default:
        kernel, padding = argument(near, 1, "kernel_size"), argument(near, 3, "padding", [0, 0])
        stride = argument(near, 2, "stride") or kernel
        flags = (
            bool(argument(near, 4, "ceil_mode", False)),
            bool(argument(near, 5, "count_include_pad", True)),
        )
        geometry = (_square(kernel), _square(stride), _square(padding), *flags)
        return target.call(near, ops.qavg_pool2d.default, x.node, *geometry, *numbers)
    if near.target is aten.adaptive_avg_pool2d.default:
        size = argument(near, 1, "output_size")
        return target.call(near, ops.qadaptive_avg_pool2d.default, x.node, *size, *numbers)
    mean = spatial_mean(near)
    assert mean is not None
    read = _as_image(target, near, x.node) if mean[0] == 3 else x.node
    made = target.call(near, ops.qadaptive_avg_pool2d.default, read, 1, 1, *numbers)
    if mean == (4, True):
        return made
    return target.call(near, aten.reshape.default, made, [-1, *near.meta["val"].shape[1:]])


def _square(values: Sequence[int]) -> list[int]:
    return [int(value) for value in values] * (2 if len(values) == 1 else 1)


def _as_image(target: Target, near: Node, x: Node) -> Node:
    channels, length = tensor_inputs(near)[0].meta["val"].shape[1:]
    return target.call(near, aten.reshape.default, x, [-1, channels, 1, length])


def emit_table(target: Target, near: Node, x: Stored, out: ActQuant) -> Node:
    """The function that `near` computes of its one tensor, as a table."""

    def function(values: Tensor) -> Tensor:
        result: Tensor = near.target(values, *near.args[1:], **near.kwargs)  # type: ignore[operator]
        return result

    table = target.constant(near, f"{near.name}_table", table_of(function, x.quant, out))
    return target.call(near, ops.qtable.default, x.node, table)


def emit_requantize(target: Target, near: Node, x: Stored, out: ActQuant) -> Node:
    """A change of scale or bits."""
    table = target.constant(near, f"{near.name}_table", table_of(lambda values: values, x.quant, out))
    return target.call(near, ops.qtable.default, x.node, table)


def emit_quantize(target: Target, near: Node, x: Node, out: ActQuant) -> Node:
    """float32 to integers."""
    return target.call(near, ops.quantize.default, x, 1.0 / out.scale, out.zero_point, 0, out.quant_max)


def emit_dequantize(target: Target, near: Node, x: Stored) -> Node:
    """Integers to float32."""
    return target.call(near, ops.dequantize.default, x.node, x.quant.scale, x.quant.zero_point)


def emit_carrier(target: Target, near: Node, inputs: Sequence[Stored]) -> Node:
    """Data movement, max pooling and resizing on integers: scale and zero point stay."""
    x, quant = inputs[0].node, inputs[0].quant
    if near.target is aten.max_pool2d.default:
        kernel, padding = argument(near, 1, "kernel_size"), argument(near, 3, "padding", [0, 0])
        stride, dilation = argument(near, 2, "stride") or kernel, argument(near, 4, "dilation", [1, 1])
        geometry = [_square(values) for values in (kernel, stride, padding, dilation)]
        return target.call(
            near, ops.qmax_pool2d.default, x, *geometry, bool(argument(near, 5, "ceil_mode", False))
        )
    if near.target is aten.upsample_nearest2d.default:
        return target.call(near, ops.qupsample_nearest2d.default, x, *_size(near))
    if near.target is aten.upsample_bilinear2d.default:
        align_corners = bool(argument(near, 2, "align_corners", False))
        return target.call(near, ops.qupsample_bilinear2d.default, x, *_size(near), align_corners)
    if near.target is aten.constant_pad_nd.default:
        return target.call(near, aten.constant_pad_nd.default, x, list(near.args[1]), quant.zero_point)  # type: ignore
    if near.target is aten.cat.default:
        nodes = [stored.node for stored in inputs]
        return target.call(near, aten.cat.default, nodes, argument(near, 1, "dim", 0))
    return target.call(near, near.target, x, *near.args[1:], **near.kwargs)


def _size(near: Node) -> list[int]:
    return [int(extent) for extent in near.meta["val"].shape[2:]]
