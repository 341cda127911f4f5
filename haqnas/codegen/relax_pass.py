"""A pass for TVM's Relax: functions of a module are run by networks that haqnas compiled."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, te, tirx

from haqnas.codegen.header import inverse_scale
from haqnas.codegen.program import TensorInfo
from haqnas.errors import ConfigurationError

# What a pass raises goes through C++ and comes out as the class that is registered under its name.
tvm_ffi.register_error("ConfigurationError", ConfigurationError)


@dataclass(frozen=True, slots=True)
class Implementation:
    """A compiled network: an object file with the packed function `<name>_run(inputs..., outputs...)`."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    object_file: Path


def relax_module_pass(implementations: Mapping[str, Implementation]) -> Any:
    """`replace_functions` as a tvm.transform.ModulePass, named HaqnasPass; also raises for two networks of one name."""
    names = Counter(each.name for each in dict.fromkeys(implementations.values()))
    if clashes := [name for name, count in names.items() if count > 1]:
        raise ConfigurationError(
            f"networks in one module need names of their own, but several are named {', '.join(clashes)}; compile them "
            "with haqnas.compile(..., name=...)"
        )

    def transform(module: Any, _context: Any) -> Any:
        return replace_functions(module, implementations)

    return tvm.ir.transform.module_pass(transform, opt_level=0, name="HaqnasPass")


def replace_functions(module: Any, implementations: Mapping[str, Implementation]) -> Any:
    """An IRModule in which the Relax functions named by the keys quantize their inputs and call the network.

    The signatures stay. The object files are attached as external modules, which `relax.build` links. Raises
    ConfigurationError for a function that is not there or has another signature than its network.
    """
    builder = relax.BlockBuilder(module)
    drafts = []
    for name, implementation in implementations.items():
        variable, function = _find(module, name)
        _check_signature(name, function, implementation)
        drafts.append(_emit_calls(builder, f"{name}_by_haqnas", function, implementation))
        body = builder.get()[drafts[-1]].with_attr("global_symbol", name)
        builder.update_func(variable, body)
    made = builder.finalize()
    for draft in drafts:
        del made[draft]
    libraries = [
        tvm.runtime.load_static_library(str(each.object_file), [f"{each.name}_run"])
        for each in dict.fromkeys(implementations.values())
    ]
    return made.with_attr("external_mods", [*(made.get_attr("external_mods") or ()), *libraries])


def _find(module: Any, name: str) -> tuple[Any, Any]:
    functions = {
        variable.name_hint: (variable, function)
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function)
    }
    if name not in functions:
        raise ConfigurationError(
            f"the module has no Relax function {name!r}; its functions are {', '.join(sorted(functions)) or 'none'}"
        )
    return functions[name]


def _check_signature(name: str, function: Any, implementation: Implementation) -> None:
    for kind, found, infos in (
        ("parameters", [parameter.ty for parameter in function.params], implementation.inputs),
        ("results", _fields(function.ret_ty), implementation.outputs),
    ):
        given = [_describe(each) for each in found]
        wanted = [f"float32 {tuple(info.shape)}" for info in infos]
        if given != wanted:
            raise ConfigurationError(
                f"the {kind} of the Relax function {name!r} are {', '.join(given) or 'none'}, but those of the network "
                f"{implementation.name!r} are {', '.join(wanted)}; import the model with batch 1 and with its weights "
                "inside (keep_params_as_input=False)"
            )


def _fields(kind: Any) -> list[Any]:
    return list(kind.fields) if isinstance(kind, relax.TupleType) else [kind]


def _describe(kind: Any) -> str:
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        return str(kind)
    sizes = [int(size) if isinstance(size, tirx.IntImm) else str(size) for size in kind.shape]
    return f"{kind.dtype} {tuple(sizes)}"


def _emit_calls(builder: Any, name: str, function: Any, network: Implementation) -> Any:
    """Add a function of the same signature under `name`: quantize, call, dequantize."""
    parameters = [relax.Var(parameter.name, parameter.ty) for parameter in function.params]
    kinds = [relax.TensorType(info.shape, info.dtype) for info in network.outputs]
    with builder.function(name, parameters):
        with builder.dataflow():
            given = relax.Tuple(list(map(partial(_emit_quantize, builder), parameters, network.inputs)))
            called = builder.emit(relax.op.call_dps_packed(f"{network.name}_run", given, kinds))
            parts = [called]
            if len(kinds) > 1:
                parts = [builder.emit(relax.TupleGetItem(called, index)) for index in range(len(kinds))]
            results = list(map(partial(_emit_dequantize, builder), parts, network.outputs))
            is_tuple = isinstance(function.ret_ty, relax.TupleType)
            result = builder.emit_output(relax.Tuple(results) if is_tuple else results[0])
        return builder.emit_func_output(result)


def _emit_quantize(builder: Any, real: Any, info: TensorInfo) -> Any:
    """As the function of the C header: value / scale rounded half to even, plus zero point, clamped; NaN gives 0."""
    if info.dtype == "float32":
        return real
    scale, low, high = (
        tirx.const(number, "float32")
        for number in (inverse_scale(info), -info.zero_point, info.quant_max - info.zero_point)
    )

    def quantize(tensor: Any) -> Any:
        def integer(*index: Any) -> Any:
            value = tirx.nearbyint(tensor(*index) * scale)
            raised = tirx.Select(value >= low, value, low)
            clamped = tirx.Select(raised > high, high, raised)
            return (clamped.astype("int32") + info.zero_point).astype("uint8")

        return te.compute(tensor.shape, integer, "quantized")

    return builder.emit_te(quantize, real)


def _emit_dequantize(builder: Any, values: Any, info: TensorInfo) -> Any:
    """As the function of the C header: scale * (integer - zero point)."""
    if info.dtype == "float32":
        return values
    scale = tirx.const(info.scale, "float32")

    def dequantize(tensor: Any) -> Any:
        def real(*index: Any) -> Any:
            return (tensor(*index).astype("int32") - info.zero_point).astype("float32") * scale

        return te.compute(tensor.shape, real, "real")

    return builder.emit_te(dequantize, values)
