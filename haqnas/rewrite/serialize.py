"""The integer graph as JSON text and a dict of arrays, and back; no pickle.

A saved graph is untrusted input: only operators of the namespaces aten and haqnas, and `operator.getitem`, are
called, every name is checked, and constants come from the arrays alone.
"""

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

import haqnas.graph.ops as _registered  # noqa: F401  importing it registers the operators
from haqnas.errors import VerificationError
from haqnas.rewrite.shapes import set_shapes

SCHEMA = 1
NAMESPACES = ("aten", "haqnas")
GETITEM = "operator.getitem"
# Operators of aten that compute on tensors only; these reach outside of the graph and are never part of one.
FORBIDDEN = frozenset({"from_file", "set_", "set", "resize_", "_resize_output", "_resize_output_"})
KINDS = ("placeholder", "get_attr", "call_function", "output")

Array = NDArray[Any]


def save_graph(graph: GraphModule) -> tuple[str, dict[str, Array]]:
    """JSON text and constants of an integer graph; equal graphs give equal text."""
    nodes = [_encode_node(node) for node in graph.graph.nodes]
    names = sorted({str(node.target) for node in graph.graph.nodes if node.op == "get_attr"})
    inputs = [
        {"shape": list(node.meta["val"].shape), "dtype": str(node.meta["val"].dtype).removeprefix("torch.")}
        for node in graph.graph.nodes
        if node.op == "placeholder"
    ]
    steps = [float(step) for step in graph.meta.get("output_steps", ())]
    document = {"schema": SCHEMA, "inputs": inputs, "output_steps": steps, "nodes": nodes}
    constants = {name: getattr(graph, name).detach().numpy() for name in names}
    return json.dumps(document, indent=1) + "\n", constants


def load_graph(text: str, arrays: Mapping[str, Array]) -> GraphModule:
    """Inverse of `save_graph`: the same bits for the same inputs. Raises VerificationError for anything else."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise VerificationError(f"the saved graph is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise VerificationError(f'the saved graph must have "schema": {SCHEMA}; compile the model again')
    try:
        return _decode(document, arrays)
    except VerificationError:
        raise
    except Exception as error:  # whatever a damaged file makes of it, it is a damaged file
        raise VerificationError(
            f"the saved graph is damaged ({type(error).__name__}: {error}); compile the model again"
        ) from error


def _decode(document: Mapping[str, Any], arrays: Mapping[str, Array]) -> GraphModule:
    root, graph = nn.Module(), Graph()
    made: dict[str, Node] = {}
    for entry in document["nodes"]:
        name, node = _decode_node(entry, root, graph, made, arrays)
        node.meta["layer"] = str(entry.get("layer", ""))
        made[name] = node
    graph.lint()
    loaded = GraphModule(root, graph, "IntegerGraph").eval()
    loaded.meta["output_steps"] = tuple(float(step) for step in document["output_steps"])
    with torch.device("meta"):
        inputs = [torch.empty(entry["shape"], dtype=_dtype(entry["dtype"])) for entry in document["inputs"]]
    set_shapes(loaded, inputs)
    return loaded


def _encode_node(node: Node) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": node.name, "op": node.op}
    if node.op != "output":
        entry["target"] = _target_name(node)
        entry["layer"] = str(node.meta.get("layer", ""))
    if node.op in {"call_function", "output"}:
        entry["args"] = [_encode(value) for value in node.args]
        entry["kwargs"] = {name: _encode(value) for name, value in sorted(node.kwargs.items())}
    return entry


def _target_name(node: Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if node.target is operator.getitem:
        return GETITEM
    assert isinstance(node.target, OpOverload), node.target
    return str(node.target)  # such as aten.reshape.default


def _encode(value: Any) -> Any:
    """JSON of an argument: numbers, flags, None and lists as they are; the rest as an object with one key."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value).removeprefix("torch.")}
    if isinstance(value, torch.layout):
        return {"layout": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": "cpu"}
    raise VerificationError(f"an argument of type {type(value).__name__} cannot be saved: {value!r}")


def _decode_node(
    entry: Mapping[str, Any],
    root: nn.Module,
    graph: Graph,
    made: Mapping[str, Node],
    arrays: Mapping[str, Array],
) -> tuple[str, Node]:
    name, kind = str(entry["name"]), entry["op"]
    if kind not in KINDS:
        raise VerificationError(f"a saved graph has nodes of the kinds {', '.join(KINDS)}, but got {kind!r}")
    if kind == "placeholder":
        return name, graph.placeholder(_identifier(entry["target"]))
    if kind == "get_attr":
        key = _identifier(entry["target"])
        if key not in arrays:
            raise VerificationError(
                f"the constant {key} of the saved graph is missing; compile the model again"
            )
        if not hasattr(root, key):
            root.register_buffer(key, torch.from_numpy(np.array(arrays[key])))
        return name, graph.get_attr(key)
    args = tuple(_decode_value(value, made) for value in entry["args"])
    if kind == "output":
        return name, graph.output(tuple(args[0]))
    kwargs = {_identifier(key): _decode_value(value, made) for key, value in entry["kwargs"].items()}
    return name, graph.call_function(_operator(entry["target"]), args, kwargs)


def _decode_value(value: Any, made: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode_value(item, made) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    decoders: dict[str, Callable[[Any], Any]] = {
        "node": made.__getitem__,
        "float": float,
        "dtype": _dtype,
        "memory_format": lambda name: _torch_constant(name, torch.memory_format),
        "layout": lambda name: _torch_constant(name, torch.layout),
        "device": torch.device,
    }
    return decoders[kind](content)


def _operator(name: Any) -> Any:
    if name == GETITEM:
        return operator.getitem
    parts = str(name).split(".")
    if len(parts) != 3 or parts[0] not in NAMESPACES or parts[1] in FORBIDDEN:
        raise VerificationError(
            f"a saved graph may call operators of {' and '.join(NAMESPACES)} only, but it calls {name!r}"
        )
    packet = getattr(getattr(torch.ops, parts[0]), parts[1])
    found = getattr(packet, parts[2])
    if not isinstance(found, OpOverload):
        raise VerificationError(f"a saved graph calls {name!r}, which is no operator")
    return found


def _dtype(name: Any) -> torch.dtype:
    found = _torch_constant(name, torch.dtype)
    assert isinstance(found, torch.dtype)
    return found


def _torch_constant(name: Any, kind: type) -> Any:
    found = getattr(torch, _identifier(name))
    if not isinstance(found, kind):
        raise VerificationError(f"a saved graph names {name!r}, which is no {kind.__name__}")
    return found


def _identifier(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        raise VerificationError(f"a saved graph has the name {name!r}, which is no identifier")
    return name
