"""Normalise a traced graph: an ordered tuple of passes, each from graph module to new graph module.

The result is the canonical graph of docs/design.md; `canonical` lists the forms of its operators.
"""

from collections.abc import Callable

import torch
from torch import fx

from haqnas.errors import HaqnasError
from haqnas.graph.activations import merge_activations
from haqnas.graph.canonical import rewrite_operators
from haqnas.graph.choices import norm_branches
from haqnas.graph.constants import fold_constants
from haqnas.graph.edit import copy_graph, emit, finish, is_call, replace, shape_of
from haqnas.graph.parametrise import fold_batch_norm, make_layers

aten = torch.ops.aten
Pass = Callable[[fx.GraphModule], fx.GraphModule]


def merge_moves(gm: fx.GraphModule) -> fx.GraphModule:
    """A reshape of a reshape is one reshape, a permutation of a permutation one permutation; none is nothing."""
    gm = copy_graph(gm)
    for node in list(gm.graph.nodes):
        if is_call(node, aten.reshape.default) and is_call(node.args[0], aten.reshape.default):
            source = node.args[0].args[0]
            if source.meta["val"].dim() and (node.args[1][:1] != [-1] or shape_of(source)[:1] == (1,)):
                node.args = (source, node.args[1])
            if shape_of(node.args[0]) == shape_of(node):
                replace(node, node.args[0])
        elif is_call(node, aten.permute.default) and is_call(node.args[0], aten.permute.default):
            inner = node.args[0]
            dims = [inner.args[1][dim] for dim in node.args[1]]
            is_identity = dims == sorted(dims)
            replace(
                node,
                inner.args[0] if is_identity else emit(node, aten.permute.default, inner.args[0], dims),
            )
    return finish(gm)


NORMALIZE_PASSES: tuple[Pass, ...] = (
    fold_constants,
    make_layers,
    norm_branches,
    fold_batch_norm,
    rewrite_operators,
    merge_activations,
    merge_moves,
)


def normalise(gm: fx.GraphModule, passes: tuple[Pass, ...] = NORMALIZE_PASSES) -> fx.GraphModule:
    """Run the passes in order on a graph from `trace`; `gm` is unchanged.

    The graph is checked after each pass. A pass that fails is a bug: HaqnasError names it and those before it.
    """
    done: list[str] = []
    for normalise_once in passes:
        name = normalise_once.__name__
        try:
            gm = normalise_once(gm)
            check(gm)
        except HaqnasError:
            raise
        except Exception as error:
            before = ", ".join(done) or "none"
            raise HaqnasError(
                f"the pass {name} failed (passes before it: {before}): {type(error).__name__}: {error}\n"
                "  This is a bug of haqnas; please report it with the model."
            ) from error
        done.append(name)
    return gm


def check(gm: fx.GraphModule) -> None:
    """Raise where the graph is not well formed, or a node does not know its value."""
    gm.graph.lint()
    for node in gm.graph.nodes:
        if node.op != "output" and "val" not in node.meta:
            raise ValueError(f"node {node.name} has no value")
