"""Emit a Program as C: one ahead-of-time function, its public header, a description, and the constants."""

import hashlib
import json
import re
from collections.abc import Iterable
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np

from haqnas.codegen.header import emit_header, workspace_bytes
from haqnas.codegen.layer_table import encode_table
from haqnas.codegen.literals import comma_separated, float_literal, string_literal
from haqnas.codegen.program import Call, Program, TensorInfo
from haqnas.codegen.run_function import emit_run, marked_calls
from haqnas.codegen.selftest import OutputSamples, SelfTest
from haqnas.errors import ConfigurationError

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FEATURE = re.compile(r'^HAQNAS_CPU_FEATURE\((\w+), "([^"]+)", (\w+)\)$', re.MULTILINE)
_DTYPES = {"uint8": "HAQNAS_UINT8", "float32": "HAQNAS_FLOAT32"}


def runtime_folder() -> Path:
    """Where the C runtime's sources are installed."""
    return Path(str(resources.files("haqnas.kernels"))) / "runtime"


def cpu_features() -> dict[str, str]:
    """Name of each CPU feature that the runtime detects -> its C enumerator; read from the C table."""
    table = (runtime_folder() / "cpu_features.inc").read_text(encoding="utf-8")
    return {name: enumerator for enumerator, name, _ in _FEATURE.findall(table)}


def emit_sources(program: Program, folder: Path, golden: SelfTest) -> tuple[Path, ...]:
    """Write `<name>.c`, `<name>.h`, `<name>_model.c`, `<name>_constants.S`, `layers.bin`, `constants.bin` to `folder`.

    `<name>.c` and the constants are the library; `<name>_model.c` describes the model, with the self test
    `golden`, for the executable and the TVM entry. Raises ConfigurationError for a name that is not a C
    identifier or a CPU feature that the runtime cannot detect, OSError when the folder cannot be written.
    """
    if not _IDENTIFIER.fullmatch(program.name):
        raise ConfigurationError(
            f"a model's name becomes a C identifier (letters, digits, _), but got {program.name!r}; "
            "rename the model file"
        )
    if program.name.lower().startswith("haqnas"):
        raise ConfigurationError(
            f"names that begin with haqnas belong to the runtime, but the model is named {program.name!r}; "
            "rename the model file"
        )
    name = program.name
    files = {
        f"{name}.h": emit_header(program),
        f"{name}.c": _source(program),
        f"{name}_model.c": _description(program, golden),
        f"{name}_constants.S": _constants_assembly(program),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    data = {"layers.bin": encode_table(program), "constants.bin": program.constants}
    for file, content in data.items():
        (folder / file).write_bytes(content)
    return tuple(folder / file for file in (*files, *data))


# Facts of tensors --------------------------------------------------------------------------------------------
def _feature_set(program: Program) -> str:
    known = cpu_features()
    for feature in program.required_cpu_features:
        if feature not in known:
            raise ConfigurationError(
                f"the runtime cannot check the CPU feature {feature!r}; it knows {comma_separated(sorted(known))}"
            )
    return " | ".join(f"HAQNAS_CPU({known[f]})" for f in program.required_cpu_features) or "0"


# Source -----------------------------------------------------------------------------------------------------


def prototypes(calls: Iterable[Call]) -> list[str]:
    """One declaration a kernel. All pointers are `const void *`, so that any buffer converts by itself."""
    kinds: dict[str, tuple[str, ...]] = {}
    for call in calls:
        kind = tuple("int32_t" if isinstance(a, int) else "const void *" for a in call.arguments)
        if kinds.setdefault(call.symbol, kind) != kind:
            raise ValueError(f"{call.symbol} is called with arguments of different kinds")
    return [f"void {symbol}({comma_separated(kind) or 'void'});" for symbol, kind in kinds.items()]


def _source(program: Program) -> str:
    name = program.name
    return f"""\
/* {name}: emitted by haqnas {version("haqnas")}; do not edit. */
#include "{name}.h"

#include "haqnas_runtime.h"

/* In {name}_constants.S: packed weights, scales, tables. */
extern __attribute__((visibility("hidden"))) const unsigned char {name}_constants[];

{chr(10).join(prototypes(program.calls))}

#define PUBLIC __attribute__((visibility("default")))

{emit_run(program, _feature_set(program))}
PUBLIC const char *{name}_error_message(int status) {{
  switch (status) {{
    case HAQNAS_OK:
      return "ok";
    case HAQNAS_ERROR_NULL:
      return "an argument or a buffer is a null pointer";
    case HAQNAS_ERROR_ALIGNMENT:
      return "the workspace must be aligned to 64 bytes (aligned_alloc)";
    case HAQNAS_ERROR_CPU:
      return {string_literal(_cpu_message(program))};
    case HAQNAS_ERROR_IO_ALIGNMENT:
      return "a float32 input or output must be aligned to 4 bytes";
    default:
      return "unknown status";
  }}
}}
"""


def _cpu_message(program: Program) -> str:
    needs = comma_separated(program.required_cpu_features) or "nothing"
    return f"the CPU or its Linux lacks a feature that the model was compiled for; it needs {needs}"


def _constants_assembly(program: Program) -> str:
    """The digest makes the text follow the data: compilers that cache by source would miss a changed .bin."""
    symbol = f"{program.name}_constants"
    return f"""\
/* {symbol}, sha256 {hashlib.sha256(encode_table(program) + program.constants).hexdigest()} */
  .section .rodata.{symbol}, "a", @progbits
  .balign 64
  .incbin "layers.bin"
  .globl {symbol}
  .hidden {symbol}
  .type {symbol}, @object
{symbol}:
  .incbin "constants.bin"
  .size {symbol}, . - {symbol}
  .byte 0
  .section .note.GNU-stack, "", @progbits
"""


# Description ------------------------------------------------------------------------------------------------


def _info_json(program: Program) -> str:
    def tensor(info: TensorInfo) -> dict[str, object]:
        return {
            "name": info.name,
            "dtype": info.dtype,
            "shape": list(info.shape),
            "scale": float(np.float32(info.scale)),
            "zero_point": info.zero_point,
            "quant_max": info.quant_max,
            "size_bytes": info.size_bytes,
        }

    return json.dumps(
        {
            "name": program.name,
            "haqnas": version("haqnas"),
            "inputs": [tensor(info) for info in program.inputs],
            "outputs": [tensor(info) for info in program.outputs],
            "workspace_bytes": workspace_bytes(program),
            "constants_bytes": len(program.constants),
            "required_cpu_features": list(program.required_cpu_features),
            "is_exact": program.is_exact,
        }
    )


def _tensor_table(kind: str, infos: tuple[TensorInfo, ...]) -> str:
    shapes = [
        f"static const int64_t {kind}{i}_shape[] = {{{comma_separated(info.shape) or 0}}};"
        for i, info in enumerate(infos)
    ]
    rows = [
        f"    {{{string_literal(info.name)}, {_DTYPES[info.dtype]}, {len(info.shape)}, {kind}{i}_shape, "
        f"{info.size_bytes}, {info.quant_max}}},"
        for i, info in enumerate(infos)
    ]
    return "\n".join([*shapes, f"static const haqnas_tensor {kind}s[] = {{", *rows, "};"])


def _samples_table(samples: tuple[OutputSamples, ...]) -> str:
    values = [
        f"static const float samples{i}[] = {{{comma_separated(map(float_literal, sample.values)) or '0.0f'}}};"
        for i, sample in enumerate(samples)
    ]
    rows = [
        f"    {{{len(sample.values)}, samples{i}, {float_literal(sample.tolerance)}}},"
        for i, sample in enumerate(samples)
    ]
    return "\n".join([*values, "static const haqnas_samples samples[] = {", *rows, "};"])


def _call_table(program: Program) -> str:
    names = ((call.symbol.removeprefix(f"{program.name}_"), call.layer) for call in marked_calls(program))
    return "\n".join(f"    {{{string_literal(kernel)}, {string_literal(layer)}}}," for kernel, layer in names)


def _description(program: Program, golden: SelfTest) -> str:
    name = program.name
    if golden.output_hash is None and len(golden.samples) != len(program.outputs):
        raise ValueError(f"{len(program.outputs)} outputs, but samples of {len(golden.samples)}")
    is_hashed = golden.output_hash is not None
    is_threaded = program.threads > 1
    threads = "int threads, " if is_threaded else ""
    threads_field = (
        f"    .threads = {program.threads},\n    .run_threads = {name}_run_threads,\n" if is_threaded else ""
    )
    return f"""\
/* {name}: what the executable needs to know of the model; emitted by haqnas, do not edit. */
#include "{name}.h"

#include "haqnas_runtime.h"

{_tensor_table("input", program.inputs)}
{_tensor_table("output", program.outputs)}
{"" if is_hashed else _samples_table(golden.samples)}

#ifdef HAQNAS_MARKED
int {name}_run_marked(const void *const *inputs, void *const *outputs, void *workspace, {threads}haqnas_mark mark,
                      void *context);
static const haqnas_call calls[] = {{
{_call_table(program)}
}};
#endif

extern const haqnas_model {name}_model;
const haqnas_model {name}_model = {{
    .name = "{name}",
    .version = {string_literal(version("haqnas"))},
    .info_json = {string_literal(_info_json(program))},
    .input_count = {len(program.inputs)},
    .output_count = {len(program.outputs)},
    .inputs = inputs,
    .outputs = outputs,
    .workspace_bytes = {workspace_bytes(program)},
    .required_cpu_features = {_feature_set(program)},
    .run = {name}_run,
{threads_field}#ifdef HAQNAS_MARKED
    .call_count = {len(tuple(marked_calls(program)))},
    .calls = calls,
    .run_marked = {name}_run_marked,
#endif
    .error_message = {name}_error_message,
    .output_hash = UINT64_C({golden.output_hash or 0}),
    .samples = {"NULL" if is_hashed else "samples"},
}};
"""
