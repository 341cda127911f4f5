"""What each node of a canonical graph is to the quantizer: a layer, an integer operator, data movement, or float.

The rules look at one node and its immediate surroundings only; `plan.py` decides which regions become integer.
"""

import math
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from haqnas.graph.functions import FINITE_FUNCTIONS

aten = torch.ops.aten

LAYER_TYPES = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Kind(StrEnum):
    """How a node is computed when it is computed in integers."""

    INPUT = "input"
    LAYER = "layer"
    ADD = "add"  # add or subtract two activations
    MULTIPLY = "multiply"
    AVERAGE = "average"
    TABLE = "table"  # any function of one activation
    CLAMP = "clamp"  # folded into the requantization of the node before it
    MOVE = "move"  # keeps scale and zero point
    RESAMPLE = "resample"  # bilinear: keeps scale and zero point, but rounds
    CONCAT = "concat"  # keeps the scale that all its inputs share
    OUTPUT = "output"
    FLOAT = "float"


CARRIERS = frozenset({Kind.MOVE, Kind.RESAMPLE, Kind.CONCAT})
REQUANTIZING = frozenset({Kind.LAYER, Kind.ADD, Kind.MULTIPLY, Kind.AVERAGE})

TABLE_FUNCTIONS = frozenset(FINITE_FUNCTIONS)
# Operators that are a function of one tensor when their other operand is a number.
SCALAR_FUNCTIONS = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.rsub.Scalar,
        aten.add.Scalar,
        aten.sub.Scalar,
        aten.mul.Scalar,
        aten.div.Scalar,
    }
)
MOVES = frozenset(
    {
        aten.reshape.default,
        aten.view.default,
        aten.permute.default,
        aten.slice.Tensor,
        aten.clone.default,
        aten.constant_pad_nd.default,
        aten.max_pool2d.default,
        aten.upsample_nearest2d.default,
    }
)


def kind_of(graph: GraphModule, node: Node) -> Kind:
    """Kind of one node of a canonical (or fake-quantized) graph, from its operator, dtype and shape."""
    if node.op == "output":
        return Kind.OUTPUT
    if not is_float32(node):
        return Kind.FLOAT
    if node.op == "placeholder":
        return Kind.INPUT
    if node.op == "call_module":
        return Kind.LAYER if is_layer(graph, node) else Kind.FLOAT
    return _function_kind(node) if node.op == "call_function" else Kind.FLOAT


def is_layer(graph: GraphModule, node: Node) -> bool:
    """Whether the node calls a convolution or a linear layer."""
    return node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), LAYER_TYPES)


def is_float32(node: Node) -> bool:
    """Whether the node's value is one float32 tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32


def rank_of(node: Node) -> int:
    """Number of dimensions of the node's value."""
    return len(node.meta["val"].shape)


def tensor_inputs(node: Node) -> tuple[Node, ...]:
    """Nodes that the node reads, in order; a node read twice comes twice."""
    if node.op == "call_function" and node.target is aten.cat.default:
        return tuple(node.args[0])  # type: ignore[arg-type]
    return tuple(argument for argument in node.args if isinstance(argument, Node))


def clamp_bounds(node: Node) -> tuple[float, float] | None:
    """Bounds of a ReLU or clamp with constant bounds; None for anything else."""
    if node.op != "call_function":
        return None
    if node.target is aten.relu.default:
        return 0.0, math.inf
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    if node.target is aten.hardtanh.default:
        low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    elif node.target is aten.clamp_min.default:
        high = None
    elif node.target is aten.clamp_max.default:
        low, high = None, argument(node, 1, "max")
    elif node.target is not aten.clamp.default:
        return None
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An operator's argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def spatial_mean(node: Node) -> tuple[int, bool] | None:
    """(rank, keepdim) of a mean over all dimensions after the second of (n, c, w) or (n, c, h, w); else None."""
    dims, rank = argument(node, 1, "dim"), rank_of(tensor_inputs(node)[0])
    if rank not in {3, 4} or not dims or sorted(dim % rank for dim in dims) != list(range(2, rank)):
        return None
    return rank, bool(argument(node, 2, "keepdim", False))


def _function_kind(node: Node) -> Kind:
    inputs, target = tensor_inputs(node), node.target
    if not inputs or not all(is_float32(read) for read in inputs):
        return Kind.FLOAT
    if target in TABLE_FUNCTIONS and len(inputs) == 1:
        return Kind.TABLE
    if target in SCALAR_FUNCTIONS and len(inputs) == 1 and node.args[0] is inputs[0]:
        return Kind.TABLE
    if target in MOVES:
        return Kind.MOVE if _keeps_scale(node) else Kind.FLOAT
    if target is aten.upsample_bilinear2d.default:
        return Kind.RESAMPLE
    if target is aten.cat.default:
        return Kind.CONCAT
    return _arithmetic_kind(node, inputs)


def _arithmetic_kind(node: Node, inputs: tuple[Node, ...]) -> Kind:
    target = node.target
    if target in {aten.add.Tensor, aten.sub.Tensor} and len(inputs) == 2:
        return Kind.ADD if argument(node, 2, "alpha", 1) == 1 else Kind.FLOAT
    if target is aten.mul.Tensor and len(inputs) == 2:
        return Kind.MULTIPLY
    if target is aten.adaptive_avg_pool2d.default and rank_of(inputs[0]) == 4:
        return Kind.AVERAGE
    if target is aten.avg_pool2d.default and rank_of(inputs[0]) == 4:
        return Kind.AVERAGE if argument(node, 6, "divisor_override") is None else Kind.FLOAT
    if target is aten.mean.dim and spatial_mean(node) is not None:
        return Kind.AVERAGE
    return Kind.FLOAT


def _keeps_scale(node: Node) -> bool:
    if node.target is aten.constant_pad_nd.default:
        return (
            float(argument(node, 2, "value", 0.0)) == 0.0
        )  # zero is an integer of every scale, others may not be
    if node.target in {aten.max_pool2d.default, aten.upsample_nearest2d.default}:
        return rank_of(tensor_inputs(node)[0]) == 4
    return True
