"""Canonical forms of operators that only move data: reshape, permute, slice, cat, constant pad.

Each rule takes a node and returns the node that stands for it (already in the graph, before it),
or None where the operator stays as it is.
"""

import math
import operator
from collections.abc import Callable, Mapping

import torch
from torch import fx

from haqnas.graph.edit import arguments, constant_of, emit, emit_constant, is_call, shape_of

aten = torch.ops.aten
Rule = Callable[[fx.Node], fx.Node | None]


def reshape(before: fx.Node, x: fx.Node, shape: tuple[int, ...]) -> fx.Node:
    """x in another shape. The batch dimension is written -1, so that the graph also runs on larger batches."""
    if shape_of(x) == shape:
        return x
    has_batch = len(shape) > 1 and shape[0] == 1 and shape_of(x)[:1] == (1,)
    return emit(before, aten.reshape.default, x, [-1, *shape[1:]] if has_batch else list(shape))


def permute(before: fx.Node, x: fx.Node, dims: list[int]) -> fx.Node:
    """x with its dimensions in the order `dims`."""
    return x if dims == sorted(dims) else emit(before, aten.permute.default, x, dims)


def slice_of(before: fx.Node, x: fx.Node, dim: int, start: int, end: int, step: int = 1) -> fx.Node:
    """Elements start, start + step ... before end of one dimension."""
    if (start, end, step) == (0, shape_of(x)[dim], 1):
        return x
    return emit(before, aten.slice.Tensor, x, dim, start, end, step)


def cat(before: fx.Node, parts: list[fx.Node], dim: int) -> fx.Node:
    """The parts one after another along one dimension."""
    return parts[0] if len(parts) == 1 else emit(before, aten.cat.default, parts, dim)


def pad_constant(before: fx.Node, x: fx.Node, pads: list[int], value: float) -> fx.Node:
    """`pads` as in PyTorch: (before, after) of the last dimension first; negative ones cut off."""
    rank = len(shape_of(x))
    for index, (first, last) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim = rank - 1 - index
        x = slice_of(before, x, dim, max(0, -first), shape_of(x)[dim] - max(0, -last))
    positive = [max(0, pad) for pad in pads]
    while positive and positive[-2:] == [0, 0]:
        positive = positive[:-2]
    return emit(before, aten.constant_pad_nd.default, x, positive, float(value)) if any(positive) else x


def _rank(node: fx.Node) -> int:
    return len(shape_of(node))


def _to_reshape(node: fx.Node) -> fx.Node | None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    return reshape(node, x, shape_of(node))


def _permute(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    rank = _rank(node)
    return permute(node, bound["self"], [dim % rank for dim in bound["dims"]])


def _transpose(node: fx.Node) -> fx.Node | None:
    bound, rank = arguments(node), _rank(node)
    if rank < 2:
        return bound["self"]  # type: ignore[no-any-return]
    first, second = bound.get("dim0", 0) % rank, bound.get("dim1", 1) % rank
    dims = list(range(rank))
    dims[first], dims[second] = second, first
    return permute(node, bound["self"], dims)


def _slice(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, dim = bound["self"], bound["dim"] % _rank(node)
    start, end, step = slice(bound["start"], bound["end"], bound["step"]).indices(shape_of(x)[dim])
    return slice_of(node, x, dim, start, max(start, end), step)


def _select(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x = bound["self"]
    dim = bound["dim"] % _rank(x)
    index = bound["index"] % shape_of(x)[dim]
    return reshape(node, slice_of(node, x, dim, index, index + 1), shape_of(node))


def _narrow(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x = bound["self"]
    dim = bound["dim"] % _rank(x)
    start = bound["start"] % shape_of(x)[dim]
    return slice_of(node, x, dim, start, start + bound["length"])


def _part(node: fx.Node) -> fx.Node | None:
    """One element of a split, chunk or unbind."""
    whole, index = node.args
    if not is_call(whole, *_SPLITS) or not isinstance(index, int):
        return None
    assert isinstance(whole, fx.Node)
    bound = arguments(whole)
    x = bound["self"]
    dim = bound["dim"] % _rank(x)
    sizes = [part.shape[dim] if part.dim() == _rank(x) else 1 for part in whole.meta["val"]]
    start = sum(sizes[: index % len(sizes)])
    sliced = slice_of(node, x, dim, start, start + sizes[index])
    return reshape(node, sliced, shape_of(node))


def _cat(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    # torch.cat accepts empty one-dimensional tensors beside any rank; they add nothing
    parts = [part for part in bound["tensors"] if shape_of(part) != (0,)]
    dim = bound["dim"] % _rank(node)
    padded = _pad_by_constants(node, parts, dim) if dim > 0 and shape_of(node)[0] == 1 else None
    return padded or cat(node, parts, dim)


def _pad_by_constants(node: fx.Node, parts: list[fx.Node], dim: int) -> fx.Node | None:
    """Constants before and after the others (class tokens, zeros) as a pad plus one constant.

    A constant has the batch size of the example inputs; added, it broadcasts, and the graph runs on any batch.
    """
    values = [constant_of(part) for part in parts]
    inner = [index for index, value in enumerate(values) if value is None]
    if len(inner) == len(parts) or not inner or len(inner) != inner[-1] - inner[0] + 1:
        return None
    x = cat(node, [parts[index] for index in inner], dim)
    widths = [shape_of(part)[dim] for part in parts]
    pads = [0] * (2 * (_rank(node) - dim))
    pads[-2:] = [sum(widths[: inner[0]]), sum(widths[inner[-1] + 1 :])]
    padded = pad_constant(node, x, pads, 0.0)
    known = [
        torch.zeros(shape_of(part)) if value is None else value
        for part, value in zip(parts, values, strict=True)
    ]
    offset = torch.cat(known, dim)
    if not bool(offset.any()):
        return padded
    return emit(node, aten.add.Tensor, padded, emit_constant(node, f"beside_{node.name}", offset))


def _stack(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    dim = bound["dim"] % _rank(node)
    shape = [*shape_of(node)]
    shape[dim] = 1
    return cat(node, [reshape(node, part, tuple(shape)) for part in bound["tensors"]], dim)


def _repeat(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, repeats = bound["self"], bound["repeats"]
    x = reshape(node, x, (1,) * (len(repeats) - _rank(x)) + shape_of(x))
    for dim, count in enumerate(repeats):
        x = cat(node, [x] * count, dim) if count else slice_of(node, x, dim, 0, 0)
    return x


def _roll(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x = bound["self"]
    if not bound["dims"]:
        return None
    for shift, dim in zip(bound["shifts"], bound["dims"], strict=True):
        size = shape_of(x)[dim]
        cut = -shift % size
        if cut:
            parts = [slice_of(node, x, dim, cut, size), slice_of(node, x, dim, 0, cut)]
            x = cat(node, parts, dim % _rank(x))
    return x  # type: ignore[no-any-return]


def _pad(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, pads = bound["self"], list(bound["pad"])
    mode = bound.get("mode", "constant")
    if mode == "constant":
        return pad_constant(node, x, pads, bound["value"] or 0.0)
    for index, (first, last) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        x = _pad_from_itself(node, x, _rank(x) - 1 - index, (first, last), mode)
    return x  # type: ignore[no-any-return]


def _pad_from_itself(node: fx.Node, x: fx.Node, dim: int, pads: tuple[int, int], mode: str) -> fx.Node:
    """Reflect, replicate or circular padding of one dimension, put together from slices."""
    size = shape_of(x)[dim]
    first, last = pads
    sources: Mapping[str, tuple[list[int], list[int]]] = {
        "reflect": (list(range(first, 0, -1)), [size - 2 - i for i in range(last)]),
        "replicate": ([0] * first, [size - 1] * last),
        "circular": ([size - first + i for i in range(first)], list(range(last))),
    }
    ahead, behind = sources[mode]
    parts = [*(slice_of(node, x, dim, i, i + 1) for i in ahead), x]
    parts += [slice_of(node, x, dim, i, i + 1) for i in behind]
    return cat(node, parts, dim)


def _pixel_shuffle(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, factor = bound["self"], bound["upscale_factor"]
    if _rank(x) != 4:
        return None
    batch, channels, height, width = shape_of(x)
    x = reshape(node, x, (batch, channels // factor**2, factor, factor, height, width))
    return reshape(node, permute(node, x, [0, 1, 4, 2, 5, 3]), shape_of(node))


def _pixel_unshuffle(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, factor = bound["self"], bound["downscale_factor"]
    if _rank(x) != 4:
        return None
    batch, channels, height, width = shape_of(x)
    x = reshape(node, x, (batch, channels, height // factor, factor, width // factor, factor))
    return reshape(node, permute(node, x, [0, 1, 3, 5, 2, 4]), shape_of(node))


def _channel_shuffle(node: fx.Node) -> fx.Node | None:
    bound = arguments(node)
    x, groups = bound["self"], bound["groups"]
    batch, channels, *image = shape_of(x)
    x = reshape(node, x, (batch, groups, channels // groups, math.prod(image)))
    return reshape(node, permute(node, x, [0, 2, 1, 3]), shape_of(node))


_SPLITS = (
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
)
_RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.view_as.default,
    aten.reshape_as.default,
)

MOVES: Mapping[object, Rule] = {
    **dict.fromkeys(_RESHAPES, _to_reshape),
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _transpose,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.narrow.default: _narrow,
    operator.getitem: _part,
    aten.cat.default: _cat,
    aten.concat.default: _cat,
    aten.stack.default: _stack,
    aten.repeat.default: _repeat,
    aten.roll.default: _roll,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.native_channel_shuffle.default: _channel_shuffle,
}
