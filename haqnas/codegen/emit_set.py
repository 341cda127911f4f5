"""Emit a kernel set as C: the joined program, and one function for each of its segments that tells of every call."""

from pathlib import Path

from haqnas.codegen.emit import emit_sources, prototypes
from haqnas.codegen.program import Call, Program
from haqnas.codegen.run_function import call_line
from haqnas.codegen.selftest import SelfTest


def emit_kernel_set(program: Program, folder: Path, golden: SelfTest) -> tuple[Path, ...]:
    """`emit_sources` of a program made by `join`, and `<name>_set.c` with its segments. Raises as that."""
    files = emit_sources(program, folder, golden)
    path = folder / f"{program.name}_set.c"
    path.write_text(_source(program), encoding="utf-8")
    return (*files, path)


def segments_of(program: Program) -> tuple[tuple[Call, ...], ...]:
    """The calls of each program that was joined."""
    ends = (*program.segments[1:], len(program.calls))
    return tuple(program.calls[first:end] for first, end in zip(program.segments, ends, strict=True))


def _source(program: Program) -> str:
    name, segments = program.name, segments_of(program)
    functions = "\n".join(_segment(program, index, calls) for index, calls in enumerate(segments))
    rows = "\n".join(f"    {{segment_{index}, {len(calls)}}}," for index, calls in enumerate(segments))
    return f"""\
/* {name}: a set of kernels to be timed; emitted by haqnas, do not edit. */
#include "{name}.h"

#include "kernel_set.h"

extern __attribute__((visibility("hidden"))) const unsigned char {name}_constants[];

{chr(10).join(prototypes(program.calls))}

#define MARK(call) after(context)
{functions}
static const haqnas_segment segments[] = {{
{rows}
}};
const haqnas_kernel_set HAQNAS_SET = {{segments, {len(segments)}}};
"""


def _segment(program: Program, index: int, calls: tuple[Call, ...]) -> str:
    pointers = [
        f"  {const}unsigned char *const {variable}{i} = {array}[{i}];"
        for const, variable, array, count in (
            ("const ", "in", "inputs", len(program.inputs)),
            ("", "out", "outputs", len(program.outputs)),
        )
        for i in range(count)
    ]
    unused = ", ".join(f"(void){line.split('const ')[-1].split(' ')[0]}" for line in pointers)
    return f"""\
static void segment_{index}(const void *const *inputs, void *const *outputs, void *workspace,
                      haqnas_after after, void *context) {{
  unsigned char *const work = workspace;
  const unsigned char *const constants = {program.name}_constants;
{chr(10).join(pointers)}
  (void)work, (void)constants, {unused};
{chr(10).join(call_line(program, call, number) for number, call in enumerate(calls))}
}}
"""
