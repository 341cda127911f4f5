"""Building blocks of graph passes: copy a graph, emit operators with their shapes, read arguments by name.

A pass copies the graph it gets (`copy_graph`), edits the copy and returns it; tensors and modules that it does
not replace are shared between both.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

CONSTANTS = "_constants"
# Note in `meta["custom"]` of a layer's node that a batch norm was folded into: training wants it back. There it also
# outlives a trace of the graph.
HAD_BATCH_NORM = "haqnas.had_batch_norm"
INHERITED = (
    "stack_trace",
    "nn_module_stack",
    "custom",
)  # `custom` is where users of torch.fx put their own notes


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A graph module of its own, sharing tensors and modules with `gm`; what no node uses is left behind."""
    return prune(fx.GraphModule(gm, _copy_nodes(gm.graph)))


def _copy_nodes(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copied[node] = copy.node_copy(node, lambda argument: copied[argument])
    return copy


def prune(gm: fx.GraphModule) -> fx.GraphModule:
    """Remove nodes without users; inputs stay, they are the model's signature."""
    for node in reversed(gm.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            gm.graph.erase_node(node)
    return gm


def finish(gm: fx.GraphModule) -> fx.GraphModule:
    """End a pass: dead nodes and the tensors that only they used go, the code is made anew."""
    prune(gm)
    return fx.GraphModule(gm, gm.graph)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of the node's value."""
    return tuple(node.meta["val"].shape)


def broadcast_shape(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an elementwise operator on two shapes."""
    return tuple(torch.broadcast_shapes(left, right))  # type: ignore[no-untyped-call]


def is_call(node: object, *targets: object) -> bool:
    """Whether a node or argument is a call of one of the functions `targets`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an aten call by their schema names, with defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema}
    bound.update(zip((argument.name for argument in schema), node.args, strict=False))
    bound.update(node.kwargs)
    return bound


def emit(before: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
    """Insert a call of `target` before a node; it inherits the node's source line, and knows its shape."""
    graph = before.graph
    with graph.inserting_before(before):
        node = graph.call_function(target, args, kwargs)
    node.meta = inherited_meta(before)
    values = fx.map_arg((args, kwargs), lambda argument: argument.meta["val"])
    with torch.no_grad():
        node.meta["val"] = target(*values[0], **values[1])
    return node


def emit_module(before: fx.Node, path: str, module: nn.Module, x: fx.Node) -> fx.Node:
    """Insert a call of the layer `module` on `x`, stored under `path`."""
    graph = before.graph
    root = graph.owning_module
    assert root is not None
    root.add_submodule(path, module)
    with graph.inserting_before(before):
        node = graph.call_module(path, (x,))
    node.meta = inherited_meta(before)
    node.meta["val"] = _fake_call(module, x.meta["val"])
    return node


def emit_constant(before: fx.Node, name: str, value: Tensor) -> fx.Node:
    """Insert a `get_attr` of a new tensor constant."""
    graph = before.graph
    root = graph.owning_module
    assert root is not None
    target = store_constant(root, name, value)
    with graph.inserting_before(before):
        node = graph.get_attr(target)
    node.meta = {"val": fake_mode(graph).from_tensor(value, static_shapes=True)}
    return node


def store_constant(root: nn.Module, name: str, value: Tensor) -> str:
    """Store a tensor for `get_attr` and return its target, apart from the paths of the layers."""
    if not hasattr(root, CONSTANTS):
        root.add_module(CONSTANTS, nn.Module())
    folder = root.get_submodule(CONSTANTS)
    unique = stem = name.replace(".", "__")
    count = 1
    while hasattr(folder, unique):
        unique, count = f"{stem}_{count}", count + 1
    folder.register_buffer(unique, value)
    return f"{CONSTANTS}.{unique}"


def replace(node: fx.Node, replacement: fx.Node) -> None:
    """Let all readers of `node` read `replacement`, and remove `node`."""
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)


def inherited_meta(node: fx.Node) -> dict[str, Any]:
    """Where in the user's model the node comes from, to be passed on to nodes made from it."""
    return {key: node.meta[key] for key in INHERITED if key in node.meta}


def note_batch_norm(node: fx.Node) -> None:
    """Note that a batch norm was folded into the layer of a node."""
    node.meta["custom"] = {**node.meta.get("custom", {}), HAD_BATCH_NORM: True}


def had_batch_norm(node: fx.Node) -> bool:
    """Whether a batch norm was folded into the layer of a node."""
    return node.op == "call_module" and HAD_BATCH_NORM in node.meta.get("custom", {})


def fake_mode(graph: fx.Graph) -> FakeTensorMode:
    """The mode in which the graph was traced."""
    mode = next(node.meta["val"].fake_mode for node in graph.nodes if node.op == "placeholder")
    assert isinstance(mode, FakeTensorMode)
    return mode


def infer_value(node: fx.Node) -> None:
    """Set the shape that a node knows from those of its inputs; raises as its operator does where these do not fit."""
    root = node.graph.owning_module
    if node.op == "call_module":
        assert isinstance(node.args[0], fx.Node)
        node.meta["val"] = _fake_call(attribute(root, str(node.target)), node.args[0].meta["val"])  # type: ignore[arg-type]
    elif node.op == "call_function":
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
        with torch.no_grad():
            node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]


def _fake_call(module: nn.Module, x: Any) -> Any:
    mode = x.fake_mode
    state: Mapping[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad(), mode:
        fakes = {name: mode.from_tensor(value, static_shapes=True) for name, value in state.items()}
        return functional_call(module, fakes, (x,))


def attribute(gm: nn.Module, target: str) -> Any:
    """The tensor or module under a dotted name."""
    value: Any = gm
    for part in target.split("."):
        value = getattr(value, part)
    return value


def constant_of(node: object) -> Tensor | None:
    """The tensor of a `get_attr` node, None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    root = node.graph.owning_module
    assert root is not None
    value = attribute(root, str(node.target))
    return value if isinstance(value, Tensor) else None
