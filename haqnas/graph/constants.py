"""Pass: compute once what does not depend on the model's inputs."""

from typing import Any

import torch
from torch import Tensor, fx

from haqnas.graph.edit import constant_of, copy_graph, emit_constant, finish, inherited_meta


def fold_constants(gm: fx.GraphModule) -> fx.GraphModule:
    """Replace operators whose inputs are all constants by their result (weight norm, `arange`, class tokens)."""
    gm = copy_graph(gm)
    known: dict[fx.Node, Any] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            known[node] = constant_of(node)
        elif node.op == "call_function" and all(argument in known for argument in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: known[argument])
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        is_needed = any(user not in known for user in node.users)
        if node.op == "call_function" and is_needed and isinstance(value, Tensor):
            constant = emit_constant(node, f"folded_{node.name}", value.contiguous())
            constant.meta.update(inherited_meta(node))
            node.replace_all_uses_with(constant)
    return finish(gm)


def number_of(argument: object) -> float | None:
    """The value of a number, or of a constant tensor with one element; None for anything else."""
    if isinstance(argument, bool):
        return None
    if isinstance(argument, int | float):
        return float(argument)
    constant = constant_of(argument)
    if constant is None or constant.numel() != 1 or constant.dim() > 1:
        return None
    return float(constant)
