"""A graph module to be traced anew, node by node, so that what its nodes say of themselves is kept."""

from typing import Any

import torch.fx.traceback
from torch import fx, nn


class Interpreted(nn.Module):
    """Computes what a graph module computes; while traced, each new node inherits the meta of the node it comes from.

    torch copies `stack_trace`, `nn_module_stack`, `custom` and a few fields of its own. Parameters and modules are
    shared with the graph module, under the same names.
    """

    _graph: fx.Graph

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__()
        for name, child in gm.named_children():
            self.add_module(name, child)
        for name, parameter in gm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in gm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        object.__setattr__(self, "_graph", gm.graph)  # nn.Module would take a graph's owner for a child

    def forward(self, *inputs: Any) -> Any:
        with torch.fx.traceback.preserve_node_meta():
            return fx.Interpreter(self, graph=self._graph).run(*inputs)


def name_inputs(traced: fx.GraphModule, source: fx.GraphModule) -> None:
    """Give the inputs of a trace the names, and the user's notes, of those of the graph module it is of."""
    originals = [node for node in source.graph.nodes if node.op == "placeholder"]
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    for node, original in zip(inputs, originals, strict=True):
        node.target = node.name = str(original.target)
        if "custom" in original.meta:
            node.meta["custom"] = original.meta["custom"]
    traced.recompile()
