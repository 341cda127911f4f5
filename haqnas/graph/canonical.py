"""Pass: one canonical form for operators that PyTorch writes in many ways.

Canonical aten calls name all positional arguments of their schema explicitly; keyword-only arguments are left out
where they have their default. Dimensions are not negative. The forms:

- `hardtanh(x, low, high)`: ReLU6, clamp with two bounds; `relu(x)`: clamp from 0, threshold;
- `add.Tensor(x, y)`, `mul.Tensor(x, y)`, y a node or a number: subtraction of numbers, division by a number, negation
  and scaled addition are written with these two; `sub.Tensor(x, y)` between nodes;
- `max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)`, `avg_pool2d(...)`, `adaptive_avg_pool2d(x, size)`:
  pairs everywhere; 1-D pools are 2-D ones of height 1 between two reshapes;
- `mean.dim(x, dims, keepdim)`, dims ascending;
- `upsample_nearest2d.default(x, size, None, None)` and `upsample_bilinear2d.default(x, size, align_corners, None,
  None)`: the output size is explicit; a resize whose scale factor is not output size / input size stays `.vec`;
- data movement: see `moves`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from haqnas.graph.constants import number_of
from haqnas.graph.edit import (
    arguments,
    broadcast_shape,
    constant_of,
    copy_graph,
    emit,
    finish,
    replace,
    shape_of,
)
from haqnas.graph.moves import MOVES, Rule, reshape

aten = torch.ops.aten


def rewrite_operators(gm: fx.GraphModule) -> fx.GraphModule:
    """Rewrite each aten call into its canonical form."""
    gm = copy_graph(gm)
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not node.users:
            continue
        rule = RULES.get(node.target)
        canonical = rule(node) if rule is not None else None
        if canonical is not None:
            replace(node, canonical)
        elif isinstance(node.target, torch._ops.OpOverload):
            _write_out(node)
    return finish(gm)


def _write_out(node: fx.Node) -> None:
    """Make positional arguments explicit, drop keyword-only ones that have their default."""
    bound = arguments(node)
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    node.args = tuple(bound[a.name] for a in schema if not a.kwarg_only)
    node.kwargs = {a.name: bound[a.name] for a in schema if a.kwarg_only and bound[a.name] != a.default_value}


def _identity(node: fx.Node) -> fx.Node | None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    before, after = x.meta["val"], node.meta["val"]
    return x if before.dtype == after.dtype and before.shape == after.shape else None


def _dropout(node: fx.Node) -> fx.Node | None:
    return None if arguments(node)["train"] else _identity(node)


def _expand(node: fx.Node) -> fx.Node | None:
    """Elementwise readers broadcast by themselves."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    if shape_of(x) == shape_of(node):
        return x
    for user in node.users:
        if user.target not in (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor):
            return None
        others = [shape_of(other) for other in user.all_input_nodes if other is not node]
        if len(others) != 1 or broadcast_shape(shape_of(x), others[0]) != shape_of(user):
            return None
    return x


def _clamp(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    low, high = number_of(bound.get("min")), number_of(bound.get("max"))
    if low is not None and high is not None:
        return emit(node, aten.hardtanh.default, bound["self"], low, high)
    return emit(node, aten.relu.default, bound["self"]) if low == 0.0 and high is None else None


def _relu6(node: fx.Node) -> fx.Node | None:
    return emit(node, aten.hardtanh.default, node.args[0], 0.0, 6.0)


def _hardtanh(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    return emit(node, aten.hardtanh.default, bound["self"], float(bound["min_val"]), float(bound["max_val"]))


def _threshold(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    is_relu = (bound["threshold"], bound["value"]) == (0, 0)
    return emit(node, aten.relu.default, bound["self"]) if is_relu else None


def _prelu(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    slope = number_of(bound["weight"])
    return None if slope is None else emit(node, aten.leaky_relu.default, bound["self"], slope)


def _operands(node: fx.Node) -> tuple[Any, Any]:
    """Both sides, constants of one element as numbers, and a number on the right."""
    bound = arguments(node)
    left, right = bound["self"], bound["other"]
    left = left if number_of(left) is None else number_of(left)
    right = right if number_of(right) is None else number_of(right)
    return (left, right) if isinstance(left, fx.Node) else (right, left)


def _is_float(node: fx.Node) -> bool:
    return bool(node.meta["val"].dtype == torch.float32)


def _add(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    if not _is_float(node):
        return None
    if bound.get("alpha", 1) != 1:
        scaled = _times(node, bound["other"], bound["alpha"])
        return emit(node, aten.add.Tensor, bound["self"], scaled)
    left, right = _operands(node)
    return emit(node, aten.add.Tensor, left, right) if isinstance(left, fx.Node) else None


def _mul(node: fx.Node) -> fx.Node | None:
    left, right = _operands(node)
    is_canonical = isinstance(left, fx.Node) and _is_float(node)
    return emit(node, aten.mul.Tensor, left, right) if is_canonical else None


def _times(before: fx.Node, value: Any, factor: float) -> Any:
    """value * factor; a number stays a number."""
    if factor == 1:
        return value
    number = number_of(value)
    return emit(before, aten.mul.Tensor, value, float(factor)) if number is None else number * factor


def _subtract(node: fx.Node) -> fx.Node | None:
    """Subtraction of, or from, a number is an addition; between tensors it stays, with the factor applied."""
    bound = arguments(node)
    if not _is_float(node):
        return None
    left, right = bound["self"], bound["other"]
    if node.target in (aten.rsub.Tensor, aten.rsub.Scalar):
        left, right = right, left
    right = _times(node, right, bound.get("alpha", 1))
    left_number, right_number = number_of(left), number_of(right)
    if right_number is not None:
        return emit(node, aten.add.Tensor, left, -right_number) if left_number is None else None
    if left_number is not None:
        return emit(node, aten.add.Tensor, _times(node, right, -1.0), left_number)
    return emit(node, aten.sub.Tensor, left, right)


def _divide(node: fx.Node) -> fx.Node | None:
    """Division by a constant is multiplication by its reciprocal."""
    bound = arguments(node)
    divisor = number_of(bound["other"])
    if divisor is None or divisor == 0.0 or not isinstance(bound["self"], fx.Node) or not _is_float(node):
        return None
    return emit(node, aten.mul.Tensor, bound["self"], 1.0 / divisor)


def _negate(node: fx.Node) -> fx.Node | None:
    return emit(node, aten.mul.Tensor, node.args[0], -1.0) if _is_float(node) else None


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _as_2d(node: fx.Node, x: fx.Node) -> fx.Node:
    batch, channels, length = shape_of(x)
    return reshape(node, x, (batch, channels, 1, length))


def _window(bound: dict[str, Any], name: str, rank: int, neutral: int) -> list[int]:
    """An argument of a pool as (height, width); 1-D pools get `neutral` for the height."""
    value = bound[name]
    if name == "stride" and value in ([], None):
        return _window(bound, "kernel_size", rank, neutral)
    if rank == 2:
        return _pair(value)
    return [neutral, value if isinstance(value, int) else value[0]]


def _pool(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x = bound["self"]
    rank = 1 if "1d" in str(node.target) else 2
    if len(shape_of(x)) != rank + 2 or not _is_float(node):
        return None
    x = x if rank == 2 else _as_2d(node, x)
    kernel, stride = (_window(bound, name, rank, 1) for name in ("kernel_size", "stride"))
    padding = _window(bound, "padding", rank, 0)
    if "max_pool" in str(node.target):
        dilation = _window(bound, "dilation", rank, 1)
        pooled = emit(node, aten.max_pool2d.default, x, kernel, stride, padding, dilation, bound["ceil_mode"])
    else:
        divisor = bound.get("divisor_override")
        flags = (bound["ceil_mode"], bound["count_include_pad"], divisor)
        pooled = emit(node, aten.avg_pool2d.default, x, kernel, stride, padding, *flags)
    return reshape(node, pooled, shape_of(node))


def _adaptive_average(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, size = bound["self"], list(bound["output_size"])
    if len(shape_of(x)) != len(size) + 2:
        return None
    if len(size) == 1:
        x, size = _as_2d(node, x), [1, *size]
    if tuple(size) == shape_of(x)[2:]:
        return reshape(node, x, shape_of(node))
    return reshape(node, emit(node, aten.adaptive_avg_pool2d.default, x, size), shape_of(node))


def _mean(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    rank = len(shape_of(bound["self"]))
    dims = sorted({dim % rank for dim in bound.get("dim") or range(rank)})
    is_plain = bound["dtype"] in (None, torch.float32) and _is_float(bound["self"])
    return emit(node, aten.mean.dim, bound["self"], dims, bound.get("keepdim", False)) if is_plain else None


def _spatial_maximum(node: fx.Node) -> fx.Node | None:
    """Maximum over the image is a max pool of the image's size."""
    bound = arguments(node)
    shape = shape_of(bound["self"])
    if len(shape) != 4 or sorted(dim % 4 for dim in bound["dim"]) != [2, 3]:
        return None
    kernel = list(shape[2:])
    pooled = emit(node, aten.max_pool2d.default, bound["self"], kernel, kernel, [0, 0], [1, 1], False)
    return reshape(node, pooled, shape_of(node))


def _resize(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, is_1d = bound["input"], "1d" in str(node.target)
    if len(shape_of(x)) != (3 if is_1d else 4):
        return None
    sizes, factors = shape_of(node)[2:], bound["scale_factors"]
    has_corners = bool(bound.get("align_corners", False))
    if factors is not None and not has_corners:
        products = [size * factor for size, factor in zip(shape_of(x)[2:], factors, strict=True)]
        if products != list(sizes):
            return None  # PyTorch then samples by the factor, not by the sizes
    x = _as_2d(node, x) if is_1d else x
    size = [1, *sizes] if is_1d else list(sizes)
    if "nearest" in str(node.target):
        resized = emit(node, aten.upsample_nearest2d.default, x, size, None, None)
    else:
        resized = emit(node, aten.upsample_bilinear2d.default, x, size, has_corners, None, None)
    return reshape(node, resized, shape_of(node))


def _constant_operand(node: fx.Node) -> fx.Node | None:
    """max(x, 0) written with a constant tensor."""
    bound = arguments(node)
    for x, other in ((bound["self"], bound["other"]), (bound["other"], bound["self"])):
        if number_of(other) == 0.0 and constant_of(x) is None:
            return emit(node, aten.relu.default, x)
    return None


_IDENTITIES = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
)

RULES: Mapping[object, Rule] = {
    **MOVES,
    **dict.fromkeys(_IDENTITIES, _identity),
    aten.dropout.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.alpha_dropout.default: _dropout,
    aten.expand.default: _expand,
    aten.relu6.default: _relu6,
    aten.hardtanh.default: _hardtanh,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.threshold.default: _threshold,
    aten.maximum.default: _constant_operand,
    aten.prelu.default: _prelu,
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.sub.Tensor: _subtract,
    aten.sub.Scalar: _subtract,
    aten.rsub.Tensor: _subtract,
    aten.rsub.Scalar: _subtract,
    aten.div.Tensor: _divide,
    aten.div.Scalar: _divide,
    aten.neg.default: _negate,
    aten.max_pool1d.default: _pool,
    aten.max_pool2d.default: _pool,
    aten.avg_pool1d.default: _pool,
    aten.avg_pool2d.default: _pool,
    aten.adaptive_avg_pool1d.default: _adaptive_average,
    aten.adaptive_avg_pool2d.default: _adaptive_average,
    aten.mean.default: _mean,
    aten.mean.dim: _mean,
    aten.amax.default: _spatial_maximum,
    aten.upsample_nearest1d.vec: _resize,
    aten.upsample_nearest2d.vec: _resize,
    aten.upsample_linear1d.vec: _resize,
    aten.upsample_bilinear2d.vec: _resize,
}
