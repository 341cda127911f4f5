"""Digests of a network: what it computes, and its weights."""

import hashlib

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule


def add_graph(digest: "hashlib._Hash", graph: GraphModule) -> None:
    """Add a graph's operators, the settings of its layers and its weights to a digest."""
    digest.update(str(graph.graph).encode())
    digest.update(repr(_layer_settings(graph)).encode())
    for name, tensor in sorted(graph.state_dict().items()):
        digest.update(name.encode())
        add_tensor(digest, tensor)


def add_tensor(digest: "hashlib._Hash", tensor: Tensor) -> None:
    """Add a tensor's type, shape and values to a digest."""
    array = np.ascontiguousarray(tensor.detach().cpu().numpy())
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(array.tobytes())


def _layer_settings(graph: GraphModule) -> list[tuple[str, str]]:
    return [
        (name, repr(module))
        for name, module in graph.named_modules()
        if isinstance(module, nn.Module) and name
    ]
