"""A graph that torch.compile captured -> a network of records, with its weights under the paths of the user's model.

Dynamo hands over a graph whose inputs are weights and data alike, of one batch size or of a symbolic one. haqnas
compiles networks of batch 1 that have weights; the binary then runs record by record.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from haqnas.errors import UnsupportedModelError
from haqnas.graph.location import at, node_place

_MODULE = re.compile(r"\._modules\['([^']+)'\]")
_LEAF = re.compile(r"\._(?:parameters|buffers)\['([^']+)'\]$")
_BATCH_NORMS = (nn.functional.batch_norm, torch.batch_norm)
_RESIZES = ("view", "reshape", "expand", torch.reshape)
_DROPOUTS = (nn.functional.dropout, nn.functional.dropout1d, nn.functional.dropout2d, torch.dropout)
_RTOL, _ATOL = 1e-3, 1e-4  # float sums of a batch and of one record may differ in order


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which arguments of a captured graph are weights, and which are data; sizes are neither."""

    weights: Mapping[int, str]  # position -> path in the user's model
    data: tuple[int, ...]


def read_inputs(graph_module: fx.GraphModule, arguments: Sequence[Any]) -> Inputs:
    """Tell weights from data. Raises UnsupportedModelError where the data are not batches of float32 records."""
    nodes = _placeholders(graph_module)
    weights: dict[int, str] = {}
    data: list[int] = []
    for index, (node, value) in enumerate(zip(nodes, arguments, strict=True)):
        if not isinstance(value, Tensor):
            continue
        if isinstance(value, nn.Parameter) or "_dynamo_static_input_type" in node.meta.get("tensor_dict", {}):
            path = _path(node)
            weights[index] = path if path not in weights.values() else str(node.name)
        else:
            data.append(index)
            _check_data(node, value)
    counts = {int(arguments[index].shape[0]) for index in data}
    if not weights:
        raise UnsupportedModelError("it has no weights: there is nothing to quantize")
    if len(counts) != 1 or 0 in counts:
        raise UnsupportedModelError(
            f"all inputs must have one batch size above 0, but these have {sorted(counts) or 'none: there is no input'}"
        )
    return Inputs(weights, tuple(data))


def one_record(graph_module: fx.GraphModule, inputs: Inputs, arguments: Sequence[Any]) -> fx.GraphModule:
    """The network with data inputs only, (n, ...) for any n, that computes what the graph computes of each record.

    Weights are shared with `arguments`. Raises UnsupportedModelError where the graph trains, or mixes its records.
    """
    made = _close(graph_module, inputs, arguments)
    _prove(graph_module, made, inputs, arguments)
    return made


def _placeholders(graph_module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph_module.graph.nodes if node.op == "placeholder"]


def _path(node: fx.Node) -> str:
    """Of a weight in the user's model, read from where Dynamo found it: L['self']._modules['conv']._parameters['w']."""
    source = getattr(node, "_dynamo_source", None)
    name = "" if source is None else str(source.name() if callable(source.name) else source.name)
    leaf = _LEAF.search(name)
    return str(node.name) if leaf is None else ".".join([*_MODULE.findall(name), leaf[1]])


def _check_data(node: fx.Node, value: Tensor) -> None:
    known = node.meta.get("example_value")
    sizes = value.shape if known is None else known.shape
    if value.dtype != torch.float32 or value.device.type != "cpu" or value.dim() == 0:
        raise UnsupportedModelError(
            f"inputs must be float32 tensors (batch, ...) on the CPU, but {node.name} is {value.dtype} of shape "
            f"{tuple(value.shape)} on {value.device}\n"
            "  A tensor that belongs to the model must be a buffer of it (register_buffer)."
        )
    if any(not isinstance(size, int) for size in sizes[1:]):
        raise UnsupportedModelError(
            f"only the batch size may vary, but Dynamo made other sizes of {node.name} symbolic\n"
            "  Compile with dynamic=False: each size of input then has a network of its own."
        )


# The network of one record ------------------------------------------------------------------------------------


def _close(graph_module: fx.GraphModule, inputs: Inputs, arguments: Sequence[Any]) -> fx.GraphModule:
    """Weights become attributes; the batch size, a symbol or a number, is read from the first input."""
    root, graph = nn.Module(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    weights: dict[fx.Node, str] = {}
    for index, node in enumerate(_placeholders(graph_module)):
        if index in inputs.data:
            copied[node] = graph.node_copy(node)
        elif index in inputs.weights:
            weights[node] = inputs.weights[index]
            _store(root, inputs.weights[index], arguments[index])
    first = next(iter(copied.values()))
    batch_size = graph.call_method("size", (first, 0))

    def argument(node: fx.Node) -> fx.Node:
        if node in weights and node not in copied:
            copied[node] = graph.get_attr(weights[node])
        return copied.get(node, batch_size)  # what is neither weight nor data is a size

    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            continue
        _refuse_training(node)
        if node.target in _BATCH_NORMS and (path := _batch_norm(root, node, weights)) is not None:
            copied[node] = graph.call_module(path, (argument(node.args[0]),))
            copied[node].meta = dict(node.meta)
        else:
            copied[node] = graph.node_copy(node, argument)
            _unbatch(copied[node], int(arguments[inputs.data[0]].shape[0]), batch_size)
    for node in graph.nodes:
        node.meta = {key: node.meta[key] for key in ("stack_trace", "custom") if key in node.meta}
    if not batch_size.users:
        graph.erase_node(batch_size)
    return fx.GraphModule(root, graph).eval()


def _store(root: nn.Module, path: str, value: Tensor) -> None:
    *folders, leaf = path.split(".")
    owner = root
    for folder in folders:
        if folder not in owner._modules:
            owner.add_module(folder, nn.Module())
        owner = owner.get_submodule(folder)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=False))
    else:
        owner.register_buffer(leaf, value.detach())


def _batch_norm(root: nn.Module, node: fx.Node, weights: Mapping[fx.Node, str]) -> str | None:
    """Make the batch norm a module again, whose statistics calibration can read; None where it is no module's."""
    x, *rest = node.args
    owned = [weights.get(part) for part in rest[:4] if isinstance(part, fx.Node)]
    names = ["running_mean", "running_var", "weight", "bias"][: len(owned)]
    path = str(owned[0]).rpartition(".")[0] if owned else ""
    if len(owned) not in (2, 4) or not path or owned != [f"{path}.{name}" for name in names]:
        return None
    bound = node.normalized_arguments(root, normalize_to_only_use_kwargs=True)
    eps = 1e-5 if bound is None else bound.kwargs.get("eps", 1e-5)
    holder = root.get_submodule(path)
    values = [getattr(holder, name) for name in names]
    kinds = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    assert isinstance(x, fx.Node)
    kind = kinds.get(x.meta["example_value"].dim(), nn.BatchNorm1d)
    if not isinstance(holder, kind):
        with torch.device("meta"):
            made = kind(values[0].numel(), eps=float(eps), affine=len(values) == 4)
        for name, value in zip(names, values, strict=True):
            setattr(made, name, value)
        made.num_batches_tracked = torch.zeros((), dtype=torch.int64)
        root.set_submodule(path, made.eval())
    return path


def _refuse_training(node: fx.Node) -> None:
    position = {**dict.fromkeys(_BATCH_NORMS, 5), **dict.fromkeys(_DROPOUTS, 2)}.get(node.target)  # type: ignore[arg-type]
    if position is None:
        return
    default = node.target in _DROPOUTS
    given = node.args[position] if len(node.args) > position else node.kwargs.get("training", default)
    if given:
        raise UnsupportedModelError(
            f"haqnas runs networks in inference only, but {node.name} trains{at(node_place(node))}\n"
            "  Call model.eval() before the compiled model."
        )


def _unbatch(node: fx.Node, count: int, batch_size: fx.Node) -> None:
    """A first size that is the batch's, as a number, becomes `batch_size`; `_prove` says whether that was right."""
    if node.target not in _RESIZES or len(node.args) < 2:
        return
    x, sizes, *rest = node.args
    if isinstance(sizes, int) and sizes == count:
        node.args = (x, batch_size, *rest)
    elif isinstance(sizes, tuple | list) and sizes and sizes[0] == count:
        node.args = (x, (batch_size, *sizes[1:]), *rest)


def _prove(
    graph_module: fx.GraphModule, made: fx.GraphModule, inputs: Inputs, arguments: Sequence[Any]
) -> None:
    """Run both on the given data: of a batch and of a single record `made` must give what the graph gives."""
    reason = ""
    try:
        with torch.no_grad():
            batch, expected = _example_batch(graph_module, inputs, arguments)
            for count in (len(batch[0]), 1):
                given = made(*(part[:count] for part in batch))
                for one, other in zip(given, expected, strict=True):
                    if not torch.allclose(one, other[:count], _RTOL, _ATOL * float(other.abs().max())):
                        reason = "their values differ"
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
    if reason:
        place = next(filter(None, map(node_place, reversed(graph_module.graph.nodes))), None)
        raise UnsupportedModelError(
            f"the network must treat the records of a batch one by one, but a batch and single records do not give the "
            f"same ({reason}){at(place)}\n"
            "  Keep the batch dimension first, and let it be: torch.flatten(x, 1), x.mean((2, 3))."
        )


def _example_batch(
    graph_module: fx.GraphModule, inputs: Inputs, arguments: Sequence[Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """At least two records, and what the graph gives for them."""
    data = [arguments[index] for index in inputs.data]
    if len(data[0]) > 1:
        return data, list(graph_module(*arguments))
    halves = [part / 2 for part in data]
    others = list(arguments)
    for index, half in zip(inputs.data, halves, strict=True):
        others[index] = half
    results = zip(graph_module(*arguments), graph_module(*others), strict=True)
    return [torch.cat(pair) for pair in zip(data, halves, strict=True)], [torch.cat(pair) for pair in results]
