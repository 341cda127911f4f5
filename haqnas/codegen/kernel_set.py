"""Kernel sets: several programs joined into one, so that one executable times the calls of all in one trip.

Each program stays a segment that runs many times in a row before the next begins, so that caches hold what they hold
in deployment: what the call before wrote, and as much of the weights as fits.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haqnas.codegen.plan import ALIGNMENT
from haqnas.codegen.program import Call, Pointer, Program, Region


def join(programs: Sequence[Program]) -> Program:
    """One program for one thread that runs `programs`, all of one name, one after the other.

    Inputs, outputs, constants and workspaces lie one after the other; equal functions are there once.
    """
    if any(program.threads > 1 for program in programs):
        raise ValueError("programs that are joined to be timed must be lowered for one thread")
    if len({program.name for program in programs}) != 1:
        raise ValueError(
            "programs that are joined must have one name: then equal functions have equal symbols"
        )
    functions: dict[str, Any] = {}
    calls: list[Call] = []
    segments: list[int] = []
    constants = bytearray()
    workspace_bytes, inputs, outputs = 0, 0, 0
    for program in programs:
        constants.extend(bytes(-len(constants) % ALIGNMENT))
        workspace_bytes += -workspace_bytes % ALIGNMENT
        moves = {
            Region.CONSTANTS: (len(constants), 0),
            Region.WORKSPACE: (workspace_bytes, 0),
            Region.INPUT: (0, inputs),
            Region.OUTPUT: (0, outputs),
        }
        segments.append(len(calls))
        calls.extend(_moved(call, moves) for call in program.calls)
        functions |= {symbol: made for symbol, made in program.functions.items() if symbol not in functions}
        constants.extend(program.constants)
        workspace_bytes += program.workspace_bytes
        inputs, outputs = inputs + len(program.inputs), outputs + len(program.outputs)
    return Program(
        name=programs[0].name,
        inputs=tuple(info for program in programs for info in program.inputs),
        outputs=tuple(info for program in programs for info in program.outputs),
        calls=tuple(calls),
        functions=functions,
        constants=bytes(constants),
        packed_weight_bytes=sum(program.packed_weight_bytes for program in programs),
        workspace_bytes=workspace_bytes,
        layers=(),
        required_cpu_features=tuple(
            dict.fromkeys(f for program in programs for f in program.required_cpu_features)
        ),
        is_exact=all(program.is_exact for program in programs),
        segments=tuple(segments),
    )


def function_of(program: Program, call: Call) -> str:
    """The function of a call without the name of its program."""
    return call.symbol.removeprefix(f"{program.name}_")


def _moved(call: Call, moves: dict[Region, tuple[int, int]]) -> Call:
    def place(argument: Pointer | int) -> Pointer | int:
        if isinstance(argument, int):
            return argument
        offset_bytes, index = moves[argument.region]
        return Pointer(argument.region, argument.offset_bytes + offset_bytes, argument.index + index)

    return replace(call, arguments=tuple(map(place, call.arguments)), section=0, part=0)
