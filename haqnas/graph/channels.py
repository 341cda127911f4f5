"""Channels that can only be removed together: which ones a canonical graph ties to each other, and which it fixes.

Every output channel of a layer gets a number. Operators tie numbers: a sum those of both sides, a depthwise convolution
those that it reads to those that it makes, a grouped one all of a group. What reaches an output, or an operator whose
effect on channels is not known here, is fixed. Everything that is not proven to be removable stays.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx, nn

from haqnas.graph.choices import CHOOSE
from haqnas.graph.edit import attribute, shape_of
from haqnas.graph.functions import BINARY, UNARY

aten = torch.ops.aten
Ids = NDArray[np.int64]

FIXED = 0  # the number of all channels that must stay


@dataclass(frozen=True, slots=True)
class Channels:
    """The numbers along one dimension of a value; a channel that was flattened stands there several times."""

    dim: int
    ids: Ids


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """`values`, by the name of the node: none where nothing can be removed. `made`: by layer.

    `tied`: number -> set of numbers that can only be removed together; `tied[FIXED]` must stay. `windows`: numbers that
    a slice picks, of which some must stay.
    """

    values: Mapping[str, Channels]
    made: Mapping[str, Ids]
    tied: Ids
    windows: tuple[Ids, ...]


@dataclass(frozen=True, slots=True)
class _Ties:
    """What is known so far, while a graph is read."""

    gm: fx.GraphModule
    shared: frozenset[str]  # layers that are called more than once
    values: dict[fx.Node, Channels | None] = field(default_factory=dict)
    made: dict[str, Ids] = field(default_factory=dict)
    pairs: list[tuple[Ids, Ids]] = field(default_factory=list)
    windows: list[Ids] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [1])

    def new(self, count: int) -> Ids:
        first = sum(self.counts)
        self.counts.append(count)
        return np.arange(first, first + count)

    def tie(self, left: Ids, right: Ids) -> None:
        self.pairs.append((left, right))

    def fix(self, channels: Channels | None) -> None:
        if channels is not None:
            self.tie(channels.ids, np.full_like(channels.ids, FIXED))


def map_channels(gm: fx.GraphModule) -> ChannelMap:
    """Read the ties of all channels from a canonical graph."""
    calls = Counter(str(node.target) for node in gm.graph.nodes if node.op == "call_module")
    ties = _Ties(gm, frozenset(name for name, count in calls.items() if count > 1))
    for node in gm.graph.nodes:
        ties.values[node] = _read(ties, node)
    count = sum(ties.counts)
    pairs = [np.concatenate(side) for side in zip(*ties.pairs, strict=True)] if ties.pairs else None
    edges = (np.ones(len(pairs[0]), np.int8), tuple(pairs)) if pairs else ([], ([], []))
    _, tied = connected_components(coo_array(edges, shape=(count, count)), directed=False)
    return ChannelMap(
        {node.name: channels for node, channels in ties.values.items() if channels is not None},
        ties.made,
        tied.astype(np.int64),
        tuple(ties.windows),
    )


def _read(ties: _Ties, node: fx.Node) -> Channels | None:
    """The channels of a node's value, after tying those of its inputs."""
    if node.op == "call_module":
        return _layer(ties, node)
    rule = _RULES.get(node.target) if node.op == "call_function" else None
    found = rule(ties, node) if rule is not None else None
    if found is None:
        for read in node.all_input_nodes:
            ties.fix(ties.values[read])
    return found


def _layer(ties: _Ties, node: fx.Node) -> Channels | None:
    x, name = _input(node), str(node.target)
    module = attribute(ties.gm, name)
    dim = len(shape_of(x)) - 1 if isinstance(module, nn.Linear) else 1
    read = ties.values[x]
    if name in ties.shared or (read is not None and read.dim != dim):
        ties.fix(read)
    if name in ties.shared:
        return None
    ids = ties.made[name] = ties.new(shape_of(node)[dim])
    made = Channels(dim, ids)
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    if groups > 1 and (read is None or read.dim != dim):
        ties.fix(made)
    elif groups > 1:
        assert read is not None
        sources, results = read.ids.reshape(groups, -1), ids.reshape(groups, -1)
        for members in (sources, results):
            ties.tie(members.ravel(), np.repeat(sources[:, 0], members.shape[1]))
    return made


def _input(node: fx.Node) -> fx.Node:
    assert isinstance(node.args[0], fx.Node)
    return node.args[0]


def _same(ties: _Ties, node: fx.Node) -> Channels | None:
    """A function of each element."""
    return ties.values[_input(node)]


def _image(ties: _Ties, node: fx.Node) -> Channels | None:
    """An operator on the pixels of each channel by itself."""
    found = ties.values[_input(node)]
    return found if found is not None and found.dim == 1 and len(shape_of(node)) == 4 else None


def _elementwise(ties: _Ties, node: fx.Node) -> Channels | None:
    """Two values, one of which may be a number, a constant, or the same for all channels."""
    rank = len(shape_of(node))
    found: Channels | None = None
    others: list[fx.Node] = []
    for read in dict.fromkeys(node.all_input_nodes):
        channels = ties.values[read]
        if channels is None or len(channels.ids) == 1:
            others.append(read)
            continue
        channels = Channels(channels.dim + rank - len(shape_of(read)), channels.ids)
        if found is not None and found.dim != channels.dim:
            return None
        if found is not None:
            ties.tie(found.ids, channels.ids)
        found = channels
    for read in others:
        ties.fix(ties.values[read])
        if found is not None and read.op != "get_attr" and _aligned_size(read, found.dim - rank) != 1:
            return None
    return found


def _chosen(ties: _Ties, node: fx.Node) -> Channels | None:
    """One of several values: a channel goes in all of them or in none."""
    is_constant = any(read.op == "get_attr" for read in node.all_input_nodes)
    return None if is_constant else _elementwise(ties, node)


def _aligned_size(node: fx.Node, dim: int) -> int:
    """Size of the dimension at `dim` from the end; 1 where broadcasting would add it."""
    shape = shape_of(node)
    return shape[dim] if -dim <= len(shape) else 1


def _mean(ties: _Ties, node: fx.Node) -> Channels | None:
    found = ties.values[_input(node)]
    dims: Any = node.args[1]
    means = {dim % len(shape_of(_input(node))) for dim in dims}
    if found is None or found.dim in means:
        return None
    is_kept = len(node.args) > 2 and bool(node.args[2])
    gone = 0 if is_kept else sum(dim < found.dim for dim in means)
    return Channels(found.dim - gone, found.ids)


def _permute(ties: _Ties, node: fx.Node) -> Channels | None:
    found = ties.values[_input(node)]
    dims: Any = node.args[1]
    return None if found is None else Channels(list(dims).index(found.dim), found.ids)


def _reshape(ties: _Ties, node: fx.Node) -> Channels | None:
    """The channels' dimension may stay or be flattened with its neighbours; where it is split nothing is known."""
    x = _input(node)
    found = ties.values[x]
    if found is None:
        return None
    shape = shape_of(x)
    before, count = int(np.prod(shape[: found.dim])), len(found.ids)
    passed = 1
    for dim, size in enumerate(shape_of(node)):
        tiles = before // passed if passed and before % passed == 0 else 0
        if tiles and size % (tiles * count) == 0 and size > 0:
            return Channels(dim, np.tile(np.repeat(found.ids, size // (tiles * count)), tiles))
        passed *= size
    return None


def _slice(ties: _Ties, node: fx.Node) -> Channels | None:
    found = ties.values[_input(node)]
    args: Any = node.args
    _, dim, start, end, step = args
    if found is None or dim != found.dim:
        return found
    if step != 1:
        return None
    ids = found.ids[start:end]
    ties.windows.append(ids)
    return Channels(found.dim, ids)


def _cat(ties: _Ties, node: fx.Node) -> Channels | None:
    args: Any = node.args
    parts, dim = args
    read = [ties.values[part] for part in parts]
    known = [channels for channels in read if channels is not None]
    if not known or any(channels.dim != known[0].dim for channels in known):
        return None
    if known[0].dim == dim:
        fixed = [np.full(shape_of(part)[dim], FIXED) for part in parts]
        ids = [own if channels is None else channels.ids for own, channels in zip(fixed, read, strict=True)]
        return Channels(dim, np.concatenate(ids))
    if len(known) < len(parts):
        return None
    for channels in known[1:]:
        ties.tie(known[0].ids, channels.ids)
    return known[0]


def _pad(ties: _Ties, node: fx.Node) -> Channels | None:
    """Padded channels are constant: they go where what they are added to goes."""
    found = ties.values[_input(node)]
    if found is None:
        return None
    first, last = channel_pads(node, found.dim)
    if min(first, last) < 0:
        return None
    return Channels(found.dim, np.concatenate([ties.new(first), found.ids, ties.new(last)]))


def channel_pads(node: fx.Node, dim: int) -> tuple[int, int]:
    """(before, after) of one dimension of a constant pad."""
    pads: Any = node.args[1]
    place = 2 * (len(shape_of(node)) - 1 - dim)
    return (pads[place], pads[place + 1]) if place < len(pads) else (0, 0)


_Rule = Callable[[_Ties, fx.Node], Channels | None]

_IMAGE = (
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
)
_RULES: Mapping[object, _Rule] = {
    **dict.fromkeys(UNARY, _same),
    **dict.fromkeys(BINARY, _elementwise),
    **dict.fromkeys(_IMAGE, _image),
    CHOOSE: _chosen,
    aten.mean.dim: _mean,
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
}
