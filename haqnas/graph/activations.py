"""Pass: recognise activation functions that the model writes out by hand."""

import math
from collections.abc import Iterator

import torch
from torch import fx

from haqnas.graph.edit import copy_graph, emit, finish, is_call, replace

aten = torch.ops.aten


def merge_activations(gm: fx.GraphModule) -> fx.GraphModule:
    """x * sigmoid(x) becomes silu, relu6(x + 3) / 6 hardsigmoid, x * relu6(x + 3) / 6 hardswish."""
    gm = copy_graph(gm)
    for node in list(gm.graph.nodes):
        merged = (
            _silu(node) or _hardswish(node) or _hardsigmoid(node) if is_call(node, aten.mul.Tensor) else None
        )
        if merged is not None:
            replace(node, merged)
    return finish(gm)


def _orders(node: fx.Node) -> Iterator[tuple[object, object]]:
    yield node.args[0], node.args[1]
    yield node.args[1], node.args[0]


def _silu(node: fx.Node) -> fx.Node | None:
    for x, gate in _orders(node):
        if is_call(gate, aten.sigmoid.default) and gate.args[0] is x:  # type: ignore[attr-defined]
            return emit(node, aten.silu.default, x)
    return None


def _shifted_relu6(value: object) -> fx.Node | None:
    """The x of relu6(x + 3)."""
    if not is_call(value, aten.hardtanh.default):
        return None
    assert isinstance(value, fx.Node)
    shifted = value.args[0]
    if value.args[1:] != (0.0, 6.0) or not is_call(shifted, aten.add.Tensor):
        return None
    assert isinstance(shifted, fx.Node)
    x = shifted.args[0]
    return x if isinstance(x, fx.Node) and shifted.args[1] == 3.0 else None


def _is_sixth(value: object) -> bool:
    return isinstance(value, float) and math.isclose(value, 1 / 6, rel_tol=1e-6)


def _hardsigmoid(node: fx.Node) -> fx.Node | None:
    for value, factor in _orders(node):
        x = _shifted_relu6(value) if _is_sixth(factor) else None
        if x is not None:
            return emit(node, aten.hardsigmoid.default, x)
    return None


def _hardswish(node: fx.Node) -> fx.Node | None:
    for left, right in _orders(node):
        if is_call(right, aten.hardsigmoid.default) and right.args[0] is left:  # type: ignore[attr-defined]
            return emit(node, aten.hardswish.default, left)
        if _is_sixth(right) and is_call(left, aten.mul.Tensor):
            assert isinstance(left, fx.Node)
            for x, gate in _orders(left):
                if x is not None and _shifted_relu6(gate) is x:
                    return emit(node, aten.hardswish.default, x)
    return None
