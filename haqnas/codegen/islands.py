"""Float islands: what is not quantized is imported by TVM's own torch importer and joins the same program.

TVM's functions take tensors; here each becomes a function of raw pointers, and its intermediate tensors become
pointers into our workspace, so that the binary needs neither TVM's runtime nor an allocator.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tvm
import tvm_ffi
from torch import fx
from tvm import relax, s_tir, tirx
from tvm.relax import transform
from tvm.relax.frontend.torch import from_exported_program

from haqnas.codegen.draft import ITEM_BYTES, Argument, Draft, Value
from haqnas.codegen.layout import dense
from haqnas.codegen.objects import tvm_target
from haqnas.errors import UnsupportedModelError
from haqnas.graph.location import at, node_place

_PASSES = (
    transform.DecomposeOpsForInference(),
    transform.LegalizeOps(),
    transform.AnnotateTIROpPattern(),
    transform.FoldConstant(),
    transform.FuseOps(),
    transform.FuseTIR(),
    transform.DeadCodeElimination(),
    transform.CanonicalizeBindings(),
    transform.ToNonDataflow(),
)


@dataclass(frozen=True, slots=True)
class RawFunction:
    """A PrimFunc of raw pointers; `scratch_bytes` are its trailing arguments."""

    function: Any
    scratch_bytes: tuple[int, ...]


def lower_island(draft: Draft, island: fx.GraphModule, inputs: list[Value], layer: str) -> list[Value]:
    """Append the calls of a float subgraph; inputs are made dense; returns its outputs, dense."""
    module = _import(island, draft, layer)
    main = module["main"]
    known: dict[Any, Any] = {}
    for parameter, value in zip(main.params, inputs, strict=True):
        known[parameter] = draft.dense_copy(value, layer)
    result: Any = main.body
    if isinstance(main.body, relax.SeqExpr):
        result = main.body.body
        for block in main.body.blocks:
            for binding in block.bindings:
                known[binding.var] = _lower_binding(draft, module, binding, known, layer)
    fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    values: list[Any] = [known[field] for field in fields]
    flat: list[Any] = list(values[0]) if len(values) == 1 and isinstance(values[0], tuple) else values
    return [_materialized(value, layer) for value in flat]


def _import(island: fx.GraphModule, draft: Draft, layer: str) -> Any:
    """The island as a Relax module whose main function is a list of call_tir."""
    examples = tuple(
        torch.zeros(tuple(node.meta["val"].shape), dtype=node.meta["val"].dtype)
        for node in island.graph.nodes
        if node.op == "placeholder"
    )
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(island.eval(), examples, strict=False)
            module = from_exported_program(exported, keep_params_as_input=False)
        with tvm_target(draft.profile):
            return tvm.ir.transform.Sequential(_PASSES)(module)
    except Exception as error:  # TVM's importer raises many types for what it does not know
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        operators = sorted({str(n.target) for n in island.graph.nodes if n.op == "call_function"})
        raise UnsupportedModelError(
            f"the float operators around {layer or 'the output'!r} ({', '.join(operators)}) must be known to TVM's "
            f"torch importer, but it says: {reason[0]}; rewrite them with supported operators{at(_place(island))}"
        ) from error


def _place(island: fx.GraphModule) -> str | None:
    """The first line of the model that made the island."""
    return next(filter(None, map(node_place, island.graph.nodes)), None)


def _lower_binding(draft: Draft, module: Any, binding: Any, known: dict[Any, Any], layer: str) -> Any:
    expression = binding.value
    if isinstance(expression, relax.Var):
        return known[expression]
    if isinstance(expression, tvm.ir.Constant):
        return expression.data.numpy()
    if isinstance(expression, relax.Tuple):
        return tuple(_operand(field, known) for field in expression.fields)
    if isinstance(expression, relax.TupleGetItem):
        return known[expression.tuple_value][expression.index]
    if not (isinstance(expression, relax.Call) and expression.op == tvm.ir.Op.get("relax.call_tir")):
        raise UnsupportedModelError(
            f"the float operators around {layer!r} must lower to TIR functions, but TVM left {expression}; "
            "rewrite them with static shapes"
        )
    target, arguments = expression.args[0], expression.args[1]
    raw = raw_function(module[target])
    types = expression.ty_args[0] if hasattr(expression, "ty_args") else expression.sinfo_args[0]
    fields = list(types.fields) if hasattr(types, "fields") else [types]
    outputs = [draft.new_dense([int(extent) for extent in field.shape], str(field.dtype)) for field in fields]
    pointers: list[Argument] = [_pointer(draft, _operand(argument, known)) for argument in arguments.fields]
    pointers += [draft.address(output) for output in outputs]
    scratch = [draft.allocate(size) for size in raw.scratch_bytes]
    pointers += [draft.address(Value(buffer, dense((1,)), "uint8")) for buffer in scratch]
    # Repeated blocks of a network import as equal functions: one copy of the code serves them all.
    symbol = f"island_{tvm_ffi.structural_hash(raw.function) % 2**64:016x}"
    draft.call(symbol, lambda: raw.function, pointers, layer, "")  # the symbol says all
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def _operand(expression: Any, known: dict[Any, Any]) -> Any:
    return expression.data.numpy() if isinstance(expression, tvm.ir.Constant) else known[expression]


def _pointer(draft: Draft, operand: Value | np.ndarray) -> Argument:
    return draft.constant(operand) if isinstance(operand, np.ndarray) else draft.address(operand)


def _materialized(value: Value | np.ndarray, layer: str) -> Value:
    if isinstance(value, Value):
        return value
    raise UnsupportedModelError(
        f"the float operators around {layer!r} produce a constant; compute it once in the model's __init__"
    )


def raw_function(function: Any) -> RawFunction:
    """Give a PrimFunc of buffers raw pointer parameters, and turn its intermediate buffers into parameters too."""
    body = function.body
    scratch: list[Any] = []
    if isinstance(body, s_tir.SBlockRealize) and body.block.alloc_buffers:
        block = body.block
        scratch = list(block.alloc_buffers)
        bare = s_tir.SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            block.body,
            block.init,
            [],
            block.match_buffers,
            block.annotations,
        )
        body = s_tir.SBlockRealize(body.iter_values, body.predicate, bare)
    buffers = [*function.params, *scratch]
    handles = [
        tirx.Var(f"p{i}", tvm.ir.PointerType(tvm.ir.PrimType(str(buffer.dtype)), "global"))
        for i, buffer in enumerate(buffers)
    ]
    declared = [tirx.DeclBuffer(buffer, data=handle) for buffer, handle in zip(buffers, handles, strict=True)]
    wrapped = tirx.PrimFunc(handles, tirx.SeqStmt([*declared, body]))
    wrapped = wrapped.with_attr("tirx.noalias", True).with_attr("s_tir", True)
    sizes = tuple(
        int(np.prod([int(e) for e in buffer.shape])) * ITEM_BYTES[str(buffer.dtype)] for buffer in scratch
    )
    return RawFunction(wrapped, sizes)
