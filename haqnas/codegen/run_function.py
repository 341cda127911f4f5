"""The C of the run function: one call a line; for several threads, tasks of calls and the sections that they form."""

import re
from collections.abc import Iterator

from haqnas.codegen.literals import comma_separated, int32_literal
from haqnas.codegen.program import Call, Pointer, Program, Region

_POINTERS = {
    Region.WORKSPACE: "work",
    Region.CONSTANTS: "constants",
    Region.INPUT: "in{index}",
    Region.OUTPUT: "out{index}",
}
_SMALL = """\
/* One line a call and no loops in it: nothing to gain from code that is large. */
#ifdef __clang__
#define SMALL __attribute__((minsize))
#else
#define SMALL
#endif
"""
_BUFFERS = """\
typedef struct {
  const void *const *inputs;
  void *const *outputs;
  unsigned char *workspace;
#ifdef HAQNAS_MARKED
  haqnas_mark mark;
  void *context;
#endif
} buffers;
"""


def emit_run(program: Program, features: str) -> str:
    """`<name>_run`, and `<name>_run_threads` where the program is for several; `features`: the set it requires."""
    return _single(program, features) if program.threads == 1 else _threaded(program, features)


def marked_calls(program: Program) -> Iterator[Call]:
    """What a marked executable times: each call, but of a section with several parts the whole, as its first call."""
    for section in program.sections:
        yield from section[0] if len(section) == 1 else section[0][:1]


def _argument(program: Program, argument: Pointer | int) -> str:
    if isinstance(argument, int):
        return int32_literal(argument)
    sizes = {
        Region.WORKSPACE: (program.workspace_bytes,),
        Region.CONSTANTS: (len(program.constants),),
        Region.INPUT: tuple(info.size_bytes for info in program.inputs),
        Region.OUTPUT: tuple(info.size_bytes for info in program.outputs),
    }[argument.region]
    if not (0 <= argument.index < len(sizes) and 0 <= argument.offset_bytes <= sizes[argument.index]):
        raise ValueError(f"{argument} points outside of its region; the regions' sizes are {sizes}")
    base = _POINTERS[argument.region].format(index=argument.index)
    return f"{base} + {argument.offset_bytes}" if argument.offset_bytes else base


def call_line(program: Program, call: Call, mark: int | None) -> str:
    """C of one kernel call, and of its mark where it has a number."""
    comment = f" /* {call.layer} */" if re.fullmatch(r"[\w.]+", call.layer) else ""
    marked = "" if mark is None else f" MARK({mark});"
    arguments = comma_separated(_argument(program, a) for a in call.arguments)
    return f"  {call.symbol}({arguments});{marked}{comment}"


def _checks(program: Program) -> str:
    lines = ["  if (!inputs || !outputs || !workspace) return HAQNAS_ERROR_NULL;"]
    for variable, array, infos in (("in", "inputs", program.inputs), ("out", "outputs", program.outputs)):
        const = "const " if variable == "in" else ""
        for i in range(len(infos)):
            lines.append(f"  {const}unsigned char *const {variable}{i} = {array}[{i}];")
            lines.append(f"  if (!{variable}{i}) return HAQNAS_ERROR_NULL;")
        for i, info in enumerate(infos):
            if info.dtype == "float32":
                lines.append(f"  if ((uintptr_t){variable}{i} % 4) return HAQNAS_ERROR_IO_ALIGNMENT;")
    return "\n".join(lines)


def _single(program: Program, features: str) -> str:
    name = program.name
    return f"""\
#ifdef HAQNAS_MARKED
#define PARAMETERS const void *const *inputs, void *const *outputs, void *workspace, haqnas_mark mark, void *context
#define MARK(call) \\
  if (mark) mark(context, call)
int {name}_run_marked(PARAMETERS);
int {name}_run_marked(PARAMETERS) {{
#else
#define MARK(call)
{_SMALL}SMALL PUBLIC int {name}_run(const void *const *inputs, void *const *outputs, void *workspace) {{
#endif
{_checks(program)}
  if ((uintptr_t)workspace % HAQNAS_ALIGNMENT) return HAQNAS_ERROR_ALIGNMENT;
  if (haqnas_cpu_missing({features})) return HAQNAS_ERROR_CPU;
  unsigned char *const work = workspace;
  const unsigned char *const constants = {name}_constants;
  (void)work, (void)constants;
{chr(10).join(call_line(program, call, index) for index, call in enumerate(program.calls))}
  return HAQNAS_OK;
}}

#ifdef HAQNAS_MARKED
PUBLIC int {name}_run(const void *const *inputs, void *const *outputs, void *workspace) {{
  return {name}_run_marked(inputs, outputs, workspace, NULL, NULL);
}}
#endif
"""


def _tasks(program: Program) -> tuple[list[str], list[int], list[int]]:
    """The cases of the switch over tasks; each section's first task, and its first mark."""
    tasks: list[str] = []
    firsts, marks = [0], [0]
    for section in program.sections:
        is_serial = len(section) == 1
        for part in section:
            lines = [
                call_line(program, call, marks[-1] + k if is_serial else None) for k, call in enumerate(part)
            ]
            tasks.append("\n".join([f"  case {len(tasks)}:", *lines, "    break;"]))
        marks.append(marks[-1] + (len(section[0]) if is_serial else 1))
        firsts.append(len(tasks))
    return tasks, firsts, marks[:-1]


def _threaded(program: Program, features: str) -> str:
    name, (tasks, firsts, marks) = program.name, _tasks(program)
    variables = [
        f"  {const}unsigned char *const {variable}{i} = b->{array}[{i}];"
        for const, variable, array, infos in (
            ("const ", "in", "inputs", program.inputs),
            ("", "out", "outputs", program.outputs),
        )
        for i in range(len(infos))
    ]
    unused = ", ".join(f"(void){line.split('const ')[-1].split(' ')[0]}" for line in variables)
    return f"""\
{_BUFFERS}
#ifdef HAQNAS_MARKED
#define PARAMETERS                                                                                \\
  const void *const *inputs, void *const *outputs, void *workspace, int threads, haqnas_mark mark, \\
      void *context
#define MARK(call) \\
  if (b->mark) b->mark(b->context, call)
static void mark_section(const void *context, int section) {{
  static const uint16_t marks[] = {{{comma_separated(marks)}}};
  const buffers *const b = context;
  MARK(marks[section]);
}}
#else
#define PARAMETERS const void *const *inputs, void *const *outputs, void *workspace, int threads
#define MARK(call)
#endif

{_SMALL}/* Tasks of one section run at once. */
SMALL static void run_task(const void *context, int task) {{
  const buffers *const b = context;
  unsigned char *const work = b->workspace;
  const unsigned char *const constants = {name}_constants;
{chr(10).join(variables)}
  (void)work, (void)constants, {unused};
  switch (task) {{
{chr(10).join(tasks)}
  }}
}}

#ifdef HAQNAS_MARKED
int {name}_run_marked(PARAMETERS);
int {name}_run_marked(PARAMETERS) {{
#else
SMALL PUBLIC int {name}_run_threads(PARAMETERS) {{
#endif
{_checks(program)}
  if ((uintptr_t)workspace % HAQNAS_ALIGNMENT) return HAQNAS_ERROR_ALIGNMENT;
  if (haqnas_cpu_missing({features})) return HAQNAS_ERROR_CPU;
  static const uint16_t first[] = {{{comma_separated(firsts)}}}; /* task of each section */
#ifdef HAQNAS_MARKED
  static const haqnas_sections sections = {{run_task, first, {len(marks)}, mark_section}};
  const buffers given = {{inputs, outputs, workspace, mark, context}};
#else
  static const haqnas_sections sections = {{run_task, first, {len(marks)}}};
  const buffers given = {{inputs, outputs, workspace}};
#endif
  haqnas_team_run(&sections, &given, threads);
  return HAQNAS_OK;
}}

#ifdef HAQNAS_MARKED
PUBLIC int {name}_run_threads(const void *const *inputs, void *const *outputs, void *workspace, int threads) {{
  return {name}_run_marked(inputs, outputs, workspace, threads, NULL, NULL);
}}
#endif

PUBLIC int {name}_run(const void *const *inputs, void *const *outputs, void *workspace) {{
  return {name}_run_threads(inputs, outputs, workspace, {program.threads});
}}
"""
