"""Trace a PyTorch model into a functional graph of aten operators.

torch.export (non-strict) is the only path: it runs the model's own Python code on fake tensors, so control
flow over shapes, containers and keyword arguments simply works, every node knows its shape, dtype and source
line, and what depends on the values of a tensor is refused at the line that asks for them.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from haqnas.errors import UnsupportedModelError
from haqnas.graph.check import check_model, describe_error, in_eval_mode, run_forward
from haqnas.graph.choices import all_branches, take_branches
from haqnas.graph.edit import arguments, store_constant
from haqnas.graph.interpreted import Interpreted, name_inputs
from haqnas.graph.location import at, error_place, node_place

_DEPENDS_ON_VALUES = (GuardOnDataDependentSymNode, DataDependentOutputException)
_STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_ASSERTIONS = (torch.ops.aten._assert_tensor_metadata.default,)


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...], branches: bool = False) -> fx.GraphModule:
    """Trace `model` in eval mode on `example_inputs` (batch 1); what the nodes of a GraphModule say is kept.

    Returns a graph of functional aten operators; parameters and buffers are `get_attr` nodes whose
    `meta["parameter"]` is the qualified name; they hold copies, so the model cannot change through the graph;
    the output is a flat tuple. `branches`: with all of each `haqnas.nn.Choice` (`haqnas.graph.choices`), to cut
    architectures out of it; else with the first.
    Raises UnsupportedModelError, with the line of the model, for what cannot be traced.
    """
    check_model(model, example_inputs)
    traceable = Interpreted(model) if isinstance(model, fx.GraphModule) else model
    try:
        with torch.no_grad(), quiet(), in_eval_mode(traceable), _choices(traceable, branches):
            exported = torch.export.export(traceable, example_inputs, strict=False)
            _check_shapes(exported.graph)
            functional = exported.run_decompositions({})
    except UnsupportedModelError:
        raise
    except Exception as error:
        run_forward(traceable, example_inputs)  # a model that does not run at all gets the message about that
        raise UnsupportedModelError(_explain(error)) from error
    _check_signature(functional)
    traced = _rebuild(functional)
    if isinstance(model, fx.GraphModule):
        name_inputs(traced, model)
    return traced if branches else take_branches(traced)


def _choices(model: nn.Module, branches: bool) -> contextlib.AbstractContextManager[None]:
    return all_branches(model) if branches else contextlib.nullcontext()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own warnings and graph dumps from the user: our message says what they say, and where."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _explain(error: Exception) -> str:
    place = at(error_place(error.__traceback__))
    if isinstance(error, _DEPENDS_ON_VALUES):
        return (
            f"the model's control flow must not depend on the values of a tensor, but forward() asks for them{place}\n"
            "  Write it without a Python branch, for example `torch.where(condition, a, b)`, "
            "or take the decision outside of forward()."
        )
    return (
        f"the model cannot be traced: {describe_error(error)}{place}\n"
        "  forward() must compute with torch operators only; move numpy, .item() and input/output out of it."
    )


def _check_shapes(graph: fx.Graph) -> None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and any(not isinstance(size, int) for size in value.shape):
            raise UnsupportedModelError(
                f"every shape must be fixed, but the shape of {node.target} depends on the values of its input"
                f"{at(node_place(node))}\n"
                "  Keep the shape and mask the values instead, for example `torch.where(mask, x, 0.0)`."
            )


def _check_signature(program: ExportedProgram) -> None:
    specs = program.graph_signature.output_specs
    for spec in specs:
        if spec.kind is OutputKind.BUFFER_MUTATION:
            raise UnsupportedModelError(
                f"forward() must not keep state between calls, but it changes the buffer {spec.target!r}\n"
                "  Make the state an input and an output of the model, or compute it in __init__."
            )
        if spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, ConstantArgument):
            raise UnsupportedModelError(
                f"forward() must return tensors only, but one of its outputs is {spec.arg.value!r}\n"
                "  Return a tensor, or a tuple or dict of tensors."
            )
    if not any(spec.kind is OutputKind.USER_OUTPUT for spec in specs):
        raise UnsupportedModelError("forward() must return at least one tensor, but it returns none")
    for node in program.graph.nodes:
        if _is_random(node):
            raise UnsupportedModelError(
                f"the model must be deterministic, but it uses the random operator {node.target}"
                f"{at(node_place(node))}\n"
                "  Give dropout `training=self.training`; make random numbers an input of the model."
            )
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UnsupportedModelError(
                f"the operator {node.target} has no lowering{at(node_place(node))}\n"
                "  Write both branches and choose with `torch.where(condition, a, b)`."
            )


def _is_random(node: fx.Node) -> bool:
    """Whether the operator draws random numbers; dropout and attention do so only where they train."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    bound = arguments(node)
    return bool(bound.get("train", True)) and bound.get("dropout_p", bound.get("p", 1.0)) != 0.0


def _rebuild(program: ExportedProgram) -> fx.GraphModule:
    """Turn lifted parameters back into attributes, and leave only the user's own inputs and outputs."""
    stored = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind in _STORED and spec.target is not None
    }
    values = {**program.state_dict, **program.constants}
    root = nn.Module()
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in stored:
            if node.users:
                name = stored[node.name]
                target = store_constant(root, name, values[name].detach().clone())
                copied[node] = graph.get_attr(target)
                copied[node].meta = {"val": node.meta["val"], "parameter": name}
        elif node.op == "output":
            graph.output(_user_outputs(program, copied, node))
        elif node.target not in _ASSERTIONS:
            copied[node] = graph.node_copy(node, lambda argument: copied[argument])
    return fx.GraphModule(root, graph)


def _user_outputs(
    program: ExportedProgram, copied: dict[fx.Node, fx.Node], output: fx.Node
) -> tuple[fx.Node, ...]:
    """The outputs that the user returned, in order; copies of changed inputs are left out."""
    returned = output.args[0]
    assert isinstance(returned, tuple | list)
    results = []
    for spec, node in zip(program.graph_signature.output_specs, returned, strict=True):
        if spec.kind is not OutputKind.USER_OUTPUT:
            continue
        assert isinstance(node, fx.Node)
        if node.meta["val"].dtype != torch.float32:
            raise UnsupportedModelError(
                f"outputs must be float32, but {node.target} returns {node.meta['val'].dtype}"
                f"{at(node_place(node))}\n"
                "  Return the scores, and take argmax or a threshold outside of the model."
            )
        results.append(copied[node])
    return tuple(results)
