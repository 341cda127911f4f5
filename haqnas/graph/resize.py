"""Another resolution of the input image, where a canonical graph computes the same kind of output from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from haqnas.graph.choices import CHOOSE
from haqnas.graph.edit import copy_graph, fake_mode, finish, infer_value, shape_of
from haqnas.graph.functions import BINARY, UNARY
from haqnas.graph.trace import quiet

aten = torch.ops.aten
Shape = tuple[int, ...]


class _MisfitError(RuntimeError):
    """The graph is made for one size of image: torch's own class for shapes that do not fit."""


def resize_input(gm: fx.GraphModule, height: int) -> fx.GraphModule | None:
    """The graph for images of another height, and of the width that goes with it; `gm` is unchanged.

    None unless the network has one input (n, channels, h, w), and outputs of the same shape at this resolution: means
    over the image follow its size, all else must hold for any size (no flattened images, no constants of their shape).
    """
    images = [node for node in gm.graph.nodes if node.op == "placeholder"]
    if len(images) != 1 or len(shape_of(images[0])) != 4:
        return None
    *leading, old_height, old_width = shape_of(images[0])
    width, rest = divmod(old_width * height, old_height)
    if rest or not width:
        return None
    resized = copy_graph(gm)
    before = {node.name: shape_of(node) for node in gm.graph.nodes if node.op != "output"}
    try:
        with quiet():  # torch logs what does not fit
            for node in resized.graph.nodes:
                if node.op == "placeholder":
                    with fake_mode(resized.graph):
                        node.meta["val"] = torch.empty((*leading, height, width))
                elif any(shape_of(read) != before[read.name] for read in node.all_input_nodes):
                    _follow(node, before)
    except (RuntimeError, ValueError):  # what torch raises then
        return None
    return finish(resized)


def _follow(node: fx.Node, before: Mapping[str, Shape]) -> None:
    """Let a node follow its inputs, which have other shapes than before."""
    if node.op == "output":
        raise _MisfitError("an output has another shape")
    if node.op != "call_module":
        if node.target not in _RULES:
            raise _MisfitError(f"{node.target} may depend on sizes")
        read = node.all_input_nodes[0]
        node.args = _RULES[node.target](node, before[read.name], shape_of(read), before[node.name])
    infer_value(node)
    for constant in (read for read in node.all_input_nodes if read.op == "get_attr"):
        shapes = zip(shape_of(constant)[::-1], shape_of(node)[::-1], before[node.name][::-1], strict=False)
        if any(size != 1 and new != old for size, new, old in shapes):
            raise _MisfitError("a constant has the shape of an image")


# (node, old shape of its first input, new shape, old shape of the node) -> arguments
_Rule = Callable[[fx.Node, Shape, Shape, Shape], tuple[Any, ...]]


def _as_it_is(node: fx.Node, old: Shape, new: Shape, made: Shape) -> tuple[Any, ...]:
    del old, new, made
    return node.args


def _pool(node: fx.Node, old: Shape, new: Shape, made: Shape) -> tuple[Any, ...]:
    """A pool over the whole image stays one."""
    x, kernel, _, padding, *flags = node.args
    is_plain = flags[-1] is None if node.target is aten.avg_pool2d.default else flags[0] == [1, 1]
    if tuple(kernel) == old[2:] and made[2:] == (1, 1) and padding == [0, 0]:  # type: ignore[arg-type]
        if not is_plain:
            raise _MisfitError("the pool counts the pixels of one size")
        return (x, list(new[2:]), list(new[2:]), padding, *flags)
    return node.args


def _resample(node: fx.Node, old: Shape, new: Shape, made: Shape) -> tuple[Any, ...]:
    """The factor stays, which must be whole."""
    factors = [divmod(size, source) for size, source in zip(made[2:], old[2:], strict=True)]
    if any(rest for _, rest in factors):
        raise _MisfitError("the image is resized by a factor that is not whole")
    size = [factor * source for (factor, _), source in zip(factors, new[2:], strict=True)]
    return (node.args[0], size, *node.args[2:])


def _slice(node: fx.Node, old: Shape, new: Shape, made: Shape) -> tuple[Any, ...]:
    """Of a dimension that changes: every n-th element up to its end."""
    del made
    x, dim, start, end, step = node.args
    assert isinstance(dim, int)
    if old[dim] == new[dim]:
        return node.args
    if end != old[dim] or start >= step:  # type: ignore[operator]
        raise _MisfitError("a slice counts pixels")
    return x, dim, start, new[dim], step


def _reshape(node: fx.Node, old: Shape, new: Shape, made: Shape) -> tuple[Any, ...]:
    """Dimensions that change may be merged, not split."""
    target = list(made)
    for sources, results in _factors(old, made):
        if all(old[dim] == new[dim] for dim in sources):
            continue
        if len(results) != 1:
            raise _MisfitError("an image is split into parts")
        target[results[0]] = math.prod(new[dim] for dim in sources)
    has_batch = isinstance(node.args[1], list | tuple) and node.args[1][:1] == [-1]
    return node.args[0], [-1, *target[1:]] if has_batch else target


def _factors(old: Shape, made: Shape) -> Sequence[tuple[list[int], list[int]]]:
    """Dimensions before and after a reshape that hold the same elements, in the smallest pieces."""
    pieces: list[tuple[list[int], list[int]]] = []
    place = 0
    sources: list[int] = []
    results: list[int] = []
    left = right = 1
    for dim, size in enumerate(old):
        sources.append(dim)
        left *= size
        while place < len(made) and right * made[place] <= left:
            right *= made[place]
            results.append(place)
            place += 1
        if left == right and results:
            pieces.append((sources, results))
            sources, results = [], []
    if sources or results:
        pieces.append((sources, results))
    return pieces


_RULES: Mapping[object, _Rule] = {
    **dict.fromkeys((*UNARY, *BINARY), _as_it_is),
    CHOOSE: _as_it_is,
    aten.adaptive_avg_pool2d.default: _as_it_is,
    aten.mean.dim: _as_it_is,
    aten.cat.default: _as_it_is,
    aten.permute.default: _as_it_is,
    aten.constant_pad_nd.default: _as_it_is,
    aten.max_pool2d.default: _pool,
    aten.avg_pool2d.default: _pool,
    aten.upsample_nearest2d.default: _resample,
    aten.upsample_bilinear2d.default: _resample,
    aten.slice.Tensor: _slice,
    aten.reshape.default: _reshape,
}
