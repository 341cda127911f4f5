"""Passes: turn convolutions and matrix products with constant weights into `call_module` layers; fold batch norm.

A layer's name is the path of its module in the user's model; the name of the weight's parameter tells it.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from haqnas.graph.edit import (
    arguments,
    attribute,
    constant_of,
    copy_graph,
    emit,
    emit_module,
    finish,
    inherited_meta,
    is_call,
    note_batch_norm,
    replace,
    shape_of,
)

aten = torch.ops.aten

_LAYER_CLASSES = ("Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "Linear")
Layered = nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a layer: the module still to be named, and the value it reads."""

    module: Layered
    x: fx.Node
    key: tuple[object, ...]  # equal for calls that share weights and configuration


def make_layers(gm: fx.GraphModule) -> fx.GraphModule:
    """Convolutions, transposed convolutions and linear maps with constant weights become nn modules.

    A module that the model calls twice stays one module with two calls. Padding "same" becomes numbers, with an
    explicit pad before the layer where it is uneven; transposed 1-D convolutions become 2-D.
    """
    gm = copy_graph(gm)
    named: dict[tuple[object, ...], tuple[str, Layered]] = {}
    for node in list(gm.graph.nodes):
        read = _READERS.get(node.target) if node.op == "call_function" else None
        call = read(node) if read is not None else None
        if call is None:
            continue
        if call.key not in named:
            taken = {path for path, _ in named.values()}
            named[call.key] = (_unused(_layer_path(node), taken), call.module)
        made = emit_module(node, *named[call.key], call.x)
        if shape_of(made) != shape_of(node):  # a 1-D layer computed by a 2-D one
            made = emit(node, aten.reshape.default, made, [-1, *shape_of(node)[1:]])
        replace(node, made)
    return finish(gm)


def _unused(path: str, taken: set[str]) -> str:
    candidate, count = path, 1
    while candidate in taken:
        candidate, count = f"{path}_{count}", count + 1
    return candidate


def _layer_path(node: fx.Node) -> str:
    """Path of the torch layer that makes the call, else of the weight's owner, else of the calling module."""
    path, kind = _calling_module(node)
    if kind in _LAYER_CLASSES and path:
        return path
    constants = [(other, constant_of(other)) for other in node.all_input_nodes]
    weight = next(other for other, value in constants if value is not None and value.dim() > 1)
    name = str(weight.meta.get("parameter", ""))
    if name.endswith(".weight"):
        return name.removesuffix(".weight")
    if name in ("", "weight"):
        return path or node.name
    return name.removesuffix("_weight")


def _calling_module(node: fx.Node) -> tuple[str, str]:
    """Path and class name of the innermost module of the user's model that made a node; "" for the model."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    return str(path).split("@")[0], str(kind).rpartition(".")[2]


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=value.is_floating_point())


def _module(
    kind: type[Layered], weight: Tensor, bias: Tensor | None, sizes: tuple[int, int], **config: Any
) -> Layered:
    """A layer around given weights, without allocating others."""
    with torch.device("meta"):
        module = kind(*sizes, bias=bias is not None, **config)
    module.weight = _parameter(weight)
    module.bias = None if bias is None else _parameter(bias)
    return module.eval()


def _weights(bound: dict[str, Any], name: str = "weight") -> tuple[Tensor, Tensor | None] | None:
    """The constant weight and bias of a call; None where one of them is computed from the inputs."""
    weight, bias = constant_of(bound[name]), constant_of(bound["bias"])
    if weight is None or (bias is None and bound["bias"] is not None):
        return None
    return weight, bias


def _key(bound: dict[str, Any], x_name: str) -> tuple[object, ...]:
    """What makes two calls the same layer; nodes of equal constants differ, so their targets are compared."""
    return tuple(
        (name, value.target if isinstance(value, fx.Node) else str(value))
        for name, value in bound.items()
        if name != x_name
    )


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * rank if len(values) == 1 else values)


def _read_conv(node: fx.Node) -> _Call | None:
    bound = arguments(node)
    found = _weights(bound)
    rank = 1 if "conv1d" in str(node.target) else 2
    x = bound["input"]
    if found is None or len(shape_of(x)) != rank + 2:
        return None
    weight, bias = found
    stride, dilation = _spread(bound["stride"], rank), _spread(bound["dilation"], rank)
    padding = bound["padding"]
    if isinstance(padding, str):
        x, padding = _numeric_padding(node, x, padding, tuple(weight.shape[2:]), dilation)
    module = _module(
        nn.Conv1d if rank == 1 else nn.Conv2d,
        weight,
        bias,
        (weight.shape[1] * bound["groups"], weight.shape[0]),
        kernel_size=tuple(weight.shape[2:]),
        stride=stride,
        padding=_spread(padding, rank),
        dilation=dilation,
        groups=bound["groups"],
    )
    return _Call(module, x, _key(bound, "input"))


def _numeric_padding(
    node: fx.Node, x: fx.Node, padding: str, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[fx.Node, tuple[int, ...]]:
    """Numbers for padding "same" or "valid"; an odd total puts the extra zero after, as PyTorch does."""
    if padding == "valid":
        return x, (0,) * len(kernel)
    totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, tuple(total // 2 for total in totals)
    pads = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return emit(node, aten.constant_pad_nd.default, x, pads, 0.0), (0,) * len(kernel)


def _read_conv_transpose(node: fx.Node) -> _Call | None:
    bound = arguments(node)
    found = _weights(bound)
    x = bound["input"]
    is_1d = "conv_transpose1d" in str(node.target)
    if found is None or len(shape_of(x)) != (3 if is_1d else 4):
        return None
    weight, bias = found
    names = ("stride", "padding", "output_padding", "dilation")
    config = {name: _spread(bound[name], 1 if is_1d else 2) for name in names}
    if is_1d:
        x = emit(node, aten.reshape.default, x, [-1, shape_of(x)[1], 1, shape_of(x)[2]])
        weight = weight.unsqueeze(2)
        neutral = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
        config = {name: (neutral[name], *values) for name, values in config.items()}
    module = _module(
        nn.ConvTranspose2d,
        weight,
        bias,
        (weight.shape[0], weight.shape[1] * bound["groups"]),
        kernel_size=tuple(weight.shape[2:]),
        groups=bound["groups"],
        **config,
    )
    return _Call(module, x, _key(bound, "input"))


def _read_linear(node: fx.Node) -> _Call | None:
    bound = arguments(node)
    found = _weights(bound)
    if found is None or found[0].dim() != 2:
        return None
    weight, bias = found
    module = _module(nn.Linear, weight, bias, (weight.shape[1], weight.shape[0]))
    return _Call(module, bound["input"], _key(bound, "input"))


def _read_matmul(node: fx.Node) -> _Call | None:
    """x @ constant matrix, with the constant stored (in_features, out_features)."""
    x, right = node.args[0], node.args[1]
    weight = constant_of(right)
    if weight is None or weight.dim() != 2 or not isinstance(x, fx.Node) or len(shape_of(x)) < 2:
        return None
    module = _module(nn.Linear, weight.t().contiguous(), None, (weight.shape[0], weight.shape[1]))
    assert isinstance(right, fx.Node)
    return _Call(module, x, ("matmul", right.target))


def _read_addmm(node: fx.Node) -> _Call | None:
    """constant + x @ constant matrix."""
    bound = arguments(node)
    weight, bias = constant_of(bound["mat2"]), constant_of(bound["self"])
    if weight is None or bias is None or weight.dim() != 2 or tuple(bias.shape) != (weight.shape[1],):
        return None
    if bound["alpha"] != 1 or bound["beta"] != 1:
        return None
    module = _module(nn.Linear, weight.t().contiguous(), bias, (weight.shape[0], weight.shape[1]))
    return _Call(module, bound["mat1"], _key(bound, "mat1"))


_READERS: dict[object, Callable[[fx.Node], _Call | None]] = {
    aten.conv1d.default: _read_conv,
    aten.conv1d.padding: _read_conv,
    aten.conv2d.default: _read_conv,
    aten.conv2d.padding: _read_conv,
    aten.conv_transpose1d.default: _read_conv_transpose,
    aten.conv_transpose2d.input: _read_conv_transpose,
    aten.linear.default: _read_linear,
    aten.matmul.default: _read_matmul,
    aten.mm.default: _read_matmul,
    aten.addmm.default: _read_addmm,
}


def fold_batch_norm(gm: fx.GraphModule) -> fx.GraphModule:
    """Fold inference batch norm into the layer before it where only the batch norm reads that layer.

    What remains (pre-activation networks) becomes a depthwise 1x1 convolution under the batch norm's path:
    y = x * factor + shift with factor = weight / sqrt(variance + eps), shift = bias - mean * factor.
    """
    gm = copy_graph(gm)
    for node in list(gm.graph.nodes):
        if not is_call(node, aten._native_batch_norm_legit_no_training.default):
            continue
        affine = _affine(arguments(node))
        if affine is None or any(
            not is_call(user, operator.getitem) or user.args[1] != 0 for user in node.users
        ):
            continue
        x = node.args[0]
        folded = _fold_into_layer(gm, node, x, *affine) or _depthwise(gm, node, x, *affine)
        for user in list(node.users):
            replace(user, folded)
        node.graph.erase_node(node)
        if x.op == "call_module" and not x.users:
            x.graph.erase_node(x)  # else its name would stay taken
    return finish(gm)


def _affine(bound: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """(factor, shift) per channel, in float64 until the end; None where the statistics are not constant."""
    mean, variance = constant_of(bound["running_mean"]), constant_of(bound["running_var"])
    if mean is None or variance is None:
        return None
    weight, bias = constant_of(bound["weight"]), constant_of(bound["bias"])
    factor = torch.rsqrt(variance.double() + bound["eps"])
    if weight is not None:
        factor = factor * weight.double()
    shift = -mean.double() * factor
    if bias is not None:
        shift = shift + bias.double()
    return factor, shift


def _fold_into_layer(
    gm: fx.GraphModule, node: fx.Node, x: fx.Node, factor: Tensor, shift: Tensor
) -> fx.Node | None:
    if x.op != "call_module" or len(x.users) != 1:
        return None
    layer = attribute(gm, str(x.target))
    if isinstance(layer, nn.Linear) and len(shape_of(x)) != 2:
        return None  # batch norm counts channels on dimension 1, the layer on the last one
    folded = scale_layer(layer, factor, shift)
    taken = {str(other.target) for other in gm.graph.nodes if other.op == "call_module" and other is not x}
    made = emit_module(node, _unused(str(x.target), taken), folded, x.args[0])  # type: ignore[arg-type]
    made.meta.update(inherited_meta(x))
    note_batch_norm(made)
    return made


def scale_layer(layer: Layered, factor: Tensor, shift: Tensor) -> Layered:
    """The layer whose output is `factor * layer(x) + shift`, per output channel."""
    weight = layer.weight.double()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, kh, kw)
        per_group = weight.reshape(layer.groups, -1, *weight.shape[1:])
        scaled = (per_group * factor.reshape(layer.groups, 1, -1, 1, 1)).reshape(weight.shape)
    else:
        scaled = weight * factor.reshape([-1] + [1] * (weight.dim() - 1))
    bias = shift if layer.bias is None else shift + layer.bias.double() * factor
    return rebuild_layer(layer, scaled.float(), bias.float())


def rebuild_layer(layer: Layered, weight: Tensor, bias: Tensor | None, **changes: Any) -> Layered:
    """A layer around other weights, which tell its size; `changes` are other arguments, such as `groups`."""
    if isinstance(layer, nn.Linear):
        return _module(nn.Linear, weight, bias, (weight.shape[1], weight.shape[0]))
    names = ["stride", "padding", "dilation", "groups"]
    if isinstance(layer, nn.ConvTranspose2d):
        names.append("output_padding")
    config = {name: getattr(layer, name) for name in names} | changes
    config["kernel_size"] = tuple(weight.shape[2:])
    sizes = (weight.shape[1] * config["groups"], weight.shape[0])
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, kh, kw)
        sizes = (weight.shape[0], weight.shape[1] * config["groups"])
    return _module(type(layer), weight, bias, sizes, **config)


def _depthwise(gm: fx.GraphModule, node: fx.Node, x: fx.Node, factor: Tensor, shift: Tensor) -> fx.Node:
    """Batch norm on its own: a 1x1 convolution with one group per channel."""
    shape, channels = shape_of(x), factor.numel()
    kind, rank = (nn.Conv2d, 2) if len(shape) == 4 else (nn.Conv1d, 1)
    weight = factor.float().reshape([channels, 1] + [1] * rank)
    sizes = (channels, channels)
    module = _module(kind, weight, shift.float(), sizes, kernel_size=(1,) * rank, groups=channels)
    is_regular = len(shape) in (3, 4)
    if not is_regular:
        x = emit(node, aten.reshape.default, x, [-1, channels, max(1, torch.Size(shape[2:]).numel())])
    mean = node.args[3]
    assert isinstance(mean, fx.Node)
    path = str(mean.meta.get("parameter", "")).removesuffix(".running_mean")
    path = path if path not in ("", "running_mean") else _calling_module(node)[0] or node.name
    taken = {str(other.target) for other in gm.graph.nodes if other.op == "call_module"}
    made = emit_module(node, _unused(path, taken), module, x)
    note_batch_norm(made)
    return made if is_regular else emit(node, aten.reshape.default, made, [-1, *shape[1:]])
