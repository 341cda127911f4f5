"""Lowering of operators that move data or work element by element."""

from typing import Any, Protocol

import numpy as np
from torch import fx

from haqnas.codegen.draft import Draft, Value
from haqnas.codegen.layout import Layout, broadcast, loop_nest, permuted, reshaped, sliced
from haqnas.codegen.nodes import arguments
from haqnas.kernels.elementwise import RANKS

WIDEST = 64  # bytes of the widest vector register
LONGEST_PIECE = 2048  # bytes of a vector of channels after it was repeated


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
        "quantize",
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
        "dequantize",
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
        "table",
        values,
        walk.layer(node),
        (),
        (walk.array(arguments(node)[1]),),
    )
    return out


def _operands(walk: Walk, node: fx.Node) -> tuple[Value, Value, Value, bool]:
    """(result, first, second, are they swapped): what is broadcast comes second."""
    shape = walk.shape(node)
    seen = [_seen(x, broadcast(x.layout, shape)) for x in map(walk.value, arguments(node)[:2])]
    is_swapped = 0 in seen[0].layout.strides
    first, second = reversed(seen) if is_swapped else seen
    out = walk.result(node, "uint8")
    return out, first, second, is_swapped


def _long_pieces(draft: Draft, values: tuple[Value, Value, Value], layer: str) -> tuple[Value, Value, Value]:
    """(result, image, vector of channels) as an image of fewer, longer pixels, where a vector's copies side by side
    make pieces that fill registers better. Sixteen channels would fill a quarter of the widest.
    """
    vector = values[2]
    extents, strides = loop_nest([value.layout for value in values], RANKS)
    (rows, pixels, channels), steps = extents[-3:], [s[-3:] for s in strides]
    times = repeats(pixels, channels)
    is_dense = all(s[1:] == [channels, 1] for s in steps[:2]) and steps[2] == [0, 0, 1]
    if not (len(extents) == 3 and is_dense and times > 1):
        return values
    copies = draft.new_dense((times, channels), vector.dtype)
    draft.copy(_seen(vector, Layout((times, channels), (0, 1), vector.layout.offset)), copies, layer)
    shape = (rows, pixels // times, times * channels)
    first, second = (
        _seen(value, Layout(shape, (s[0], times * channels, 1), value.layout.offset))
        for value, s in zip(values[:2], steps[:2], strict=True)
    )
    return first, second, _seen(copies, Layout(shape, (0, 0, 1), copies.layout.offset))


def repeats(pixels: int, channels: int) -> int:
    """Neighbouring pixels to treat as one: the least divisor of `pixels` that fills registers best."""
    fitting = [k for k in range(1, pixels + 1) if pixels % k == 0 and k * channels <= LONGEST_PIECE]

    def waste(k: int) -> float:
        return -(-k * channels // WIDEST) * WIDEST / (k * channels)

    return min(fitting, key=waste, default=1)


def add(walk: Walk, node: fx.Node) -> Value:
    """A sum of two images, broadcasting."""
    out, first, second, is_swapped = _operands(walk, node)
    za, ma, zb, mb, *rest = arguments(node)[2:]
    operands = (zb, mb, za, ma) if is_swapped else (za, ma, zb, mb)
    values = _long_pieces(walk.draft, (out, first, second), walk.layer(node))
    walk.draft.elementwise("add", values, walk.layer(node), (*operands, *rest))
    return out


def mul(walk: Walk, node: fx.Node) -> Value:
    """A product, broadcasting."""
    out, first, second, is_swapped = _operands(walk, node)
    za, zb, scale, *clamp = arguments(node)[2:]
    operands = (zb, za) if is_swapped else (za, zb)
    tables = (np.array([scale], np.float32),)
    values = _long_pieces(walk.draft, (out, first, second), walk.layer(node))
    walk.draft.elementwise("mul", values, walk.layer(node), (*operands, *clamp), tables)
    return out


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
    walk.draft.elementwise("fill", (out,), walk.layer(node), (int(fill),))
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
