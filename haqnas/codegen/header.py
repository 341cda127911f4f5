"""The public C header of a model: shapes and scales as macros, functions that quantize inputs, the run function."""

from importlib.metadata import version

import numpy as np

from haqnas.codegen.literals import comma_separated, float_literal, int32_literal, string_literal
from haqnas.codegen.program import Program, TensorInfo

C_TYPES = {"uint8": "uint8_t", "float32": "float"}


def inverse_scale(info: TensorInfo) -> float:
    """The factor that turns a real value of `info` into an integer: float32(1 / scale)."""
    return float(np.float32(1.0 / info.scale))


def element_count(info: TensorInfo) -> int:
    """Elements of a tensor."""
    return info.size_bytes // (4 if info.dtype == "float32" else 1)


def workspace_bytes(program: Program) -> int:
    """At least one line, so that a workspace is never an array of size zero."""
    return max(64, program.workspace_bytes)


def _tensor_macros(prefix: str, info: TensorInfo) -> str:
    quantized = f"""\
#define {prefix}_SCALE {float_literal(info.scale)}
#define {prefix}_ZERO_POINT {info.zero_point}
#define {prefix}_QUANT_MAX {info.quant_max}
"""
    return f"""\
#define {prefix}_NAME {string_literal(info.name)}
#define {prefix}_TYPE {C_TYPES[info.dtype]}
#define {prefix}_RANK {len(info.shape)}
#define {prefix}_SHAPE {{{comma_separated(info.shape)}}}
#define {prefix}_ELEMENTS {element_count(info)}
#define {prefix}_BYTES {info.size_bytes}
{quantized if info.dtype == "uint8" else ""}"""


def _quantize_function(name: str, index: int, info: TensorInfo) -> str:
    low, high = -info.zero_point, info.quant_max - info.zero_point
    return f"""\
/* Real values to input {index}: value / scale rounded half to even, plus zero point, clamped; NaN gives 0. */
static inline void {name}_quantize_input{index}(const float *real, uint8_t *quantized, size_t count) {{
  size_t i;
  for (i = 0; i < count; ++i) {{
    float value = nearbyintf(real[i] * {float_literal(inverse_scale(info))});
    if (!(value >= {float_literal(low)})) value = {float_literal(low)};
    if (value > {float_literal(high)}) value = {float_literal(high)};
    quantized[i] = (uint8_t)((int32_t)value + {int32_literal(info.zero_point)});
  }}
}}
"""


def _dequantize_function(name: str, index: int, info: TensorInfo) -> str:
    return f"""\
/* Output {index} to real values: scale * (integer - zero point). */
static inline void {name}_dequantize_output{index}(const uint8_t *quantized, float *real, size_t count) {{
  size_t i;
  for (i = 0; i < count; ++i)
    real[i] = (float)((int32_t)quantized[i] - {int32_literal(info.zero_point)}) * {float_literal(info.scale)};
}}
"""


_STATE = """\
Allocates
 * nothing, does no input or output, keeps no state: threads may call it at once, each with its own workspace"""
_THREADS_STATE = """\
Does no
 * input or output. Works on up to {threads} threads: workers start at the first call, sleep between calls, and end with
 * the program; the result is the same for any number. Threads may call it at once: one of them then has the workers
 * and the others work alone. Each call has its own workspace"""


def _threaded(name: str, threads: int) -> str:
    return f"""\

/* {name}_run on at most `threads` threads, the caller's included: 1 to {name.upper()}_THREADS, which is what
 * {name}_run takes. */
#define {name.upper()}_THREADS {threads}
int {name}_run_threads(const void *const *inputs, void *const *outputs, void *workspace, int threads);
"""


def emit_header(program: Program) -> str:
    """`<name>.h`."""
    name, upper = program.name, program.name.upper()
    macros = [_tensor_macros(f"{upper}_INPUT{i}", info) for i, info in enumerate(program.inputs)]
    macros += [_tensor_macros(f"{upper}_OUTPUT{i}", info) for i, info in enumerate(program.outputs)]
    functions = [
        _quantize_function(name, i, info) for i, info in enumerate(program.inputs) if info.dtype == "uint8"
    ]
    functions += [
        _dequantize_function(name, i, info) for i, info in enumerate(program.outputs) if info.dtype == "uint8"
    ]
    is_threaded = program.threads > 1
    libraries = "-lm and -pthread" if is_threaded else "-lm"
    state = _THREADS_STATE.format(threads=program.threads) if is_threaded else _STATE
    threaded = _threaded(name, program.threads) if is_threaded else ""
    needs = ", ".join(program.required_cpu_features) or "nothing beyond the architecture's baseline"
    return f"""\
/* {name}: a neural network compiled by haqnas {version("haqnas")}. C99 and C++11; link lib{name}.a and {libraries}.
 * CPU features needed: {needs}. */
#ifndef HAQNAS_MODEL_{upper}_H_
#define HAQNAS_MODEL_{upper}_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the workspace, and its alignment. */
#define {upper}_WORKSPACE_BYTES {workspace_bytes(program)}
#define {upper}_WORKSPACE_ALIGNMENT 64

#define {upper}_INPUT_COUNT {len(program.inputs)}
#define {upper}_OUTPUT_COUNT {len(program.outputs)}

/* A uint8 tensor's real value is scale * (integer - zero point); integers go from 0 to QUANT_MAX. */
{chr(10).join(macros)}
/* Results of {name}_run. */
enum {name}_status {{
  {upper}_OK = 0,
  {upper}_ERROR_NULL = 1,
  {upper}_ERROR_ALIGNMENT = 2,
  {upper}_ERROR_CPU = 3,
  {upper}_ERROR_IO_ALIGNMENT = 4
}};

#ifdef __cplusplus
extern "C" {{
#endif

/* Run the network once. `inputs` and `outputs` are arrays of INPUT_COUNT and OUTPUT_COUNT pointers to buffers
 * of the sizes above, in row-major order; float32 buffers are aligned to 4 bytes. `workspace` has
 * WORKSPACE_BYTES bytes, aligned to 64, holds nothing between calls, and overlaps no other buffer. {state}
 * and outputs. Returns 0, or an error code without having written anything. */
int {name}_run(const void *const *inputs, void *const *outputs, void *workspace);
{threaded}
/* One sentence in English on a result of {name}_run; a constant string. */
const char *{name}_error_message(int status);

#ifdef __cplusplus
}} /* extern "C" */
#endif

{chr(10).join(functions)}
#endif /* HAQNAS_MODEL_{upper}_H_ */
"""
