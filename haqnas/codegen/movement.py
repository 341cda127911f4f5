"""Lowering of operators that move data or work element by element."""

from typing import Any, Protocol

import numpy as np
from torch import fx

from haqnas.codegen.draft import Draft, Value
from haqnas.codegen.layout import Layout, broadcast, permuted, reshaped, sliced
from haqnas.codegen.nodes import arguments
from haqnas.kernels import elementwise


class Walk(Protocol):
    """What a handler needs of the walk over the graph."""

    draft: Draft

    def value(self, argument: Any) -> Value: ...
    def array(self, argument: fx.Node) -> np.ndarray: ...
    def layer(self, node: fx.Node) -> str: ...
    def shape(self, node: fx.Node) -> tuple[int, ...]: ...
    def result(self, node: fx.Node, dtype: str) -> Value: ...


def _seen(value: Value, layout: Layout) -> Value:
    return Value(value.buffer, layout, value.dtype)


def quantize(walk: Walk, node: fx.Node) -> Value:
    """float32 -> uint8."""
    x, inverse_scale, zero_point, low, high = arguments(node)
    out = walk.result(node, "uint8")
    walk.draft.elementwise(
        "hq_quantize",
        elementwise.quantize_kernel,
        (out, walk.value(x)),
        walk.layer(node),
        (zero_point, low, high),
        (np.array([inverse_scale], np.float32),),
    )
    return out


def dequantize(walk: Walk, node: fx.Node) -> Value:
    """uint8 -> float32, row-major."""
    x, scale, zero_point = arguments(node)
    out = walk.draft.new_dense(walk.shape(node), "float32")
    table = np.array([scale], np.float32)
    walk.draft.elementwise(
        "hq_dequantize",
        elementwise.dequantize_kernel,
        (out, walk.value(x)),
        walk.layer(node),
        (zero_point,),
        (table,),
    )
    return out


def table(walk: Walk, node: fx.Node) -> Value:
    """A function of one activation."""
    out = walk.result(node, "uint8")
    values = (out, walk.value(arguments(node)[0]))
    walk.draft.elementwise(
        "hq_table_uint8",
        elementwise.table_kernel,
        values,
        walk.layer(node),
        (),
        (walk.array(arguments(node)[1]),),
    )
    return out


def _operands(walk: Walk, node: fx.Node) -> tuple[Value, Value, Value]:
    shape = walk.shape(node)
    a, b = (walk.value(argument) for argument in arguments(node)[:2])
    out = walk.result(node, "uint8")
    return out, _seen(a, broadcast(a.layout, shape)), _seen(b, broadcast(b.layout, shape))


def add(walk: Walk, node: fx.Node) -> Value:
    """A sum of two images, broadcasting."""
    values = _operands(walk, node)
    scalars = arguments(node)[2:]
    walk.draft.elementwise("hq_add_uint8", elementwise.add_kernel, values, walk.layer(node), scalars)
    return values[0]


def mul(walk: Walk, node: fx.Node) -> Value:
    """A product, broadcasting."""
    values = _operands(walk, node)
    a_zero, b_zero, scale, *clamp = arguments(node)[2:]
    scalars: Any = (a_zero, b_zero, *clamp)
    tables = (np.array([scale], np.float32),)
    walk.draft.elementwise("hq_mul_uint8", elementwise.mul_kernel, values, walk.layer(node), scalars, tables)
    return values[0]


def reshape(walk: Walk, node: fx.Node) -> Value:
    """A view where the layout allows it, else a row-major copy."""
    value = walk.value(arguments(node)[0])
    shape = walk.shape(node)
    layout = reshaped(value.layout, shape)
    if layout is not None:
        return _seen(value, layout)
    copied = walk.draft.new_dense(value.layout.shape, value.dtype)
    walk.draft.copy(value, copied, walk.layer(node))
    target = reshaped(copied.layout, shape)
    assert target is not None, "a row-major tensor has every shape of its size"
    return _seen(copied, target)


def permute(walk: Walk, node: fx.Node) -> Value:
    """Always a view."""
    value = walk.value(arguments(node)[0])
    order = arguments(node)[1]
    rank = len(value.layout.shape)
    return _seen(value, permuted(value.layout, [axis % rank for axis in order]))


def slice_(walk: Walk, node: fx.Node) -> Value:
    """Always a view."""
    value = walk.value(arguments(node)[0])
    defaults: tuple[Any, ...] = (0, None, None, 1)
    dim, start, stop, step = (*arguments(node)[1:], *defaults[len(arguments(node)) - 1 :])
    dim %= len(value.layout.shape)
    first, last, step = slice(start, stop, step).indices(value.layout.shape[dim])
    return _seen(value, sliced(value.layout, dim, first, last, step))


def cat(walk: Walk, node: fx.Node) -> Value:
    """A copy of each part into its place."""
    parts = arguments(node)[0]
    out = walk.result(node, "uint8")
    dim = (arguments(node)[1] if len(arguments(node)) > 1 else 0) % len(out.layout.shape)
    start = 0
    for part in parts:
        value = walk.value(part)
        stop = start + value.layout.shape[dim]
        if stop > start:
            walk.draft.copy(value, _seen(out, sliced(out.layout, dim, start, stop, 1)), walk.layer(node))
        start = stop
    return out


def pad(walk: Walk, node: fx.Node) -> Value:
    """Fill with the padding value, then copy into the inside; negative amounts crop."""
    value = walk.value(arguments(node)[0])
    amounts = arguments(node)[1]
    fill = arguments(node)[2] if len(arguments(node)) > 2 else 0
    out = walk.result(node, "uint8")
    walk.draft.elementwise("hq_fill_uint8", elementwise.fill_kernel, (out,), walk.layer(node), (int(fill),))
    source, target = value.layout, out.layout
    rank = len(source.shape)
    for k in range(len(amounts) // 2):
        dim = rank - 1 - k
        before, after = amounts[2 * k], amounts[2 * k + 1]
        size = source.shape[dim]
        source = sliced(source, dim, max(0, -before), size - max(0, -after), 1)
        target = sliced(target, dim, max(0, before), target.shape[dim] - max(0, after), 1)
    walk.draft.copy(_seen(value, source), _seen(out, target), walk.layer(node))
    return out


def clone(walk: Walk, node: fx.Node) -> Value:
    """The value itself: nothing is ever changed in place."""
    return walk.value(arguments(node)[0])
