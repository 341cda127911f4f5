"""Integerize: a calibrated fake-quantized graph becomes the integer graph of `haqnas::` operators.

A value is had as integers where a quantizer stands behind it, or behind what a carrier passes on; else as float32.
Every quantizer becomes the integer operator of the node before it. What float operators and the network's outputs
read is float32, written by `*_dequantize` layers or by `dequantize`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node, map_arg

from haqnas.errors import UnsupportedModelError
from haqnas.rewrite.emit import (
    Bounds,
    Stored,
    Target,
    emit_add,
    emit_average,
    emit_carrier,
    emit_dequantize,
    emit_layer,
    emit_multiply,
    emit_quantize,
    emit_requantize,
    emit_table,
)
from haqnas.rewrite.kinds import CARRIERS, REQUANTIZING, Kind, clamp_bounds, is_layer, kind_of, tensor_inputs
from haqnas.rewrite.quantize import is_quantizer, read_act_quant, read_integer_weight
from haqnas.rewrite.quants import ActQuant, IntegerWeight
from haqnas.rewrite.shapes import set_shapes


def integerize(fake_quantized: GraphModule) -> GraphModule:
    """Make the integer graph (docs/design.md) of a calibrated fake-quantized graph, which stays unchanged.

    Raises UnsupportedModelError when an accumulator could overflow.
    """
    source = _read(fake_quantized)
    needed = _float_demand(source)
    target = Target(fake_quantized)
    integers: dict[Node, Node] = {}
    floats: dict[Node, Node] = {}
    for node in fake_quantized.graph.nodes:
        if node.op == "output":
            target.graph.output(tuple(floats[read] for read in node.args[0]))
        elif node.op == "placeholder":
            floats[node] = target.placeholder(node)
        elif node in source.quants:
            integers[node] = _integer_node(source, target, integers, floats, node)
        if node in needed and node not in floats:
            floats[node] = _float_node(source, target, integers, floats, node)
    return _finish(fake_quantized, target)


@dataclass(frozen=True, slots=True)
class _Source:
    """The fake-quantized graph and what was read from it."""

    module: GraphModule
    kinds: Mapping[Node, Kind]
    quants: Mapping[Node, ActQuant]  # of the nodes whose value is had as integers
    weights: Mapping[str, IntegerWeight]

    def stored(self, integers: Mapping[Node, Node], node: Node) -> Stored:
        return Stored(integers[node], self.quants[node])

    def is_integer(self, node: Node) -> bool:
        """Whether the node can be computed from integers alone."""
        is_operator = self.kinds[node] in {*REQUANTIZING, Kind.TABLE}
        return is_operator and all(read in self.quants for read in tensor_inputs(node))


def _read(module: GraphModule) -> _Source:
    kinds = {node: kind_of(module, node) for node in module.graph.nodes}
    quants: dict[Node, ActQuant] = {}
    for node, kind in kinds.items():
        if is_quantizer(module, node):
            quants[node] = read_act_quant(module.get_submodule(str(node.target)))
        elif kind in CARRIERS:
            read = {quants.get(before) for before in tensor_inputs(node)}
            # A resized value is rounded by the quantizer after it; where there is none it stays float.
            rounded = kind is not Kind.RESAMPLE or all(is_quantizer(module, user) for user in node.users)
            if len(read) == 1 and rounded and (shared := read.pop()) is not None:
                quants[node] = shared
    names = sorted({str(node.target) for node in kinds if is_layer(module, node)})
    weights = {name: read_integer_weight(module.get_submodule(name)) for name in names}
    return _Source(module, kinds, quants, weights)


def _operator_before(source: _Source, quantizer: Node) -> tuple[Node, Bounds]:
    """The node whose result a quantizer stores, and the bounds of a clamp between them."""
    before = tensor_inputs(quantizer)[0]
    bounds = clamp_bounds(before)
    if bounds is not None:
        operator = tensor_inputs(before)[0]
        is_folded = source.kinds[operator] in REQUANTIZING and len(operator.users) == 1
        if is_folded and source.is_integer(operator):
            return operator, bounds
    return before, None


def _float_demand(source: _Source) -> frozenset[Node]:
    """Nodes whose value is read as float32."""
    needed: set[Node] = set()
    for node in reversed(source.module.graph.nodes):
        if node.op == "output":
            needed.update(node.all_input_nodes)
        elif is_quantizer(source.module, node):
            operator, _ = _operator_before(source, node)
            if operator not in source.quants and not source.is_integer(operator):
                needed.add(operator)
        elif node in needed and node not in source.quants and source.kinds[node] is not Kind.LAYER:
            needed.update(node.all_input_nodes)
    return frozenset(needed)


def _integer_node(
    source: _Source, target: Target, integers: Mapping[Node, Node], floats: Mapping[Node, Node], node: Node
) -> Node:
    out = source.quants[node]
    if not is_quantizer(source.module, node):
        return emit_carrier(target, node, [source.stored(integers, read) for read in tensor_inputs(node)])
    operator, bounds = _operator_before(source, node)
    if operator in source.quants:
        x = source.stored(integers, operator)
        return x.node if x.quant == out else emit_requantize(target, node, x, out)
    if not source.is_integer(operator):
        return emit_quantize(target, node, floats[operator], out)
    inputs = [source.stored(integers, read) for read in tensor_inputs(operator)]
    match source.kinds[operator]:
        case Kind.LAYER:
            weight = source.weights[str(operator.target)]
            return emit_layer(target, operator, inputs[0], weight, out, bounds)
        case Kind.ADD:
            return emit_add(target, operator, inputs[0], inputs[1], out, bounds)
        case Kind.MULTIPLY:
            return emit_multiply(target, operator, inputs[0], inputs[1], out, bounds)
        case Kind.AVERAGE:
            return emit_average(target, operator, inputs[0], out, bounds)
        case _:
            return emit_table(target, operator, inputs[0], out)


def _float_node(
    source: _Source, target: Target, integers: Mapping[Node, Node], floats: Mapping[Node, Node], node: Node
) -> Node:
    if node in source.quants:
        return emit_dequantize(target, node, source.stored(integers, node))
    if node.op == "get_attr":
        return target.constant(node, str(node.target), _attribute(source.module, str(node.target)))
    if source.kinds[node] is Kind.LAYER:
        x = source.stored(integers, tensor_inputs(node)[0])
        return emit_layer(target, node, x, source.weights[str(node.target)], None, None)
    if node.op != "call_function":
        raise UnsupportedModelError(
            f"{node.op} {node.target} has no float operator; write it with torch functions"
        )
    args, kwargs = map_arg((node.args, node.kwargs), lambda read: floats[read])
    return target.call(node, node.target, *args, **kwargs)


def _attribute(module: GraphModule, target: str) -> torch.Tensor:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value.detach().clone()


def _finish(source: GraphModule, target: Target) -> GraphModule:
    target.graph.eliminate_dead_code()
    target.graph.lint()
    integer = GraphModule(target.root, target.graph, "IntegerGraph").eval()
    integer.meta["output_steps"] = tuple(source.meta.get("output_steps", ()))
    set_shapes(integer, [node.meta["val"] for node in source.graph.nodes if node.op == "placeholder"])
    return integer
