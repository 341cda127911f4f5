"""Shapes and dtypes of a graph's nodes."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.passes.fake_tensor_prop import FakeTensorProp


def set_shapes(graph: GraphModule, inputs: list[torch.Tensor]) -> None:
    """Set `meta["val"]` of all nodes of a graph that the caller owns; only shapes and dtypes of `inputs` count."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = [torch.empty(tuple(value.shape), dtype=value.dtype) for value in inputs]
    with torch.no_grad():
        FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*fakes)
