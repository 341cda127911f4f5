"""Run integer graphs as binaries: lower, build, link, execute (under an emulator where needed), read the outputs."""

import itertools
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from haqnas.codegen import layers, link, split
from haqnas.codegen.draft import Choose
from haqnas.codegen.emit import emit_sources
from haqnas.codegen.lower import lower
from haqnas.codegen.objects import build
from haqnas.codegen.program import Program
from haqnas.codegen.selftest import make_self_test
from haqnas.codegen.split import Cutting
from haqnas.hardware import HardwareProfile
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Geometry, Kernel
from haqnas.kernels.table import select
from tests.kernels.tile_emulator import TILE_FEATURES, is_emulated, tile_emulator


def integer_graph(module: nn.Module, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """A module that calls integer operators, as the graph that `lower` takes."""
    graph = fx.symbolic_trace(module)
    graph.graph.output_node().args = (tuple(_flat(graph.graph.output_node().args[0])),)
    for node in list(graph.graph.nodes):  # operator packets called by the module become overloads
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverloadPacket):
            node.target = node.target.default
        node.meta["layer"] = node.name
    graph.recompile()
    FakeTensorProp(graph, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    return graph


def _flat(outputs: object) -> list[object]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def split_everything(patch: pytest.MonkeyPatch) -> None:
    """Cut every call in parts, layers by rows, columns and channels in turn, whether it pays or not."""
    turn = itertools.count()

    def in_turn(
        geometry: Geometry, kernel: Kernel, finish: Finish, cutting: Cutting
    ) -> tuple[split.Part, ...]:
        found = [
            parts
            for parts in split.cuts(geometry, kernel, cutting.threads)
            if split.fits(geometry, parts, kernel, finish)
        ]
        return found[next(turn) % len(found)] if found else (split.Part(geometry),)

    patch.setattr(split, "LEAST_GAIN", -1e9)
    patch.setattr(layers, "split_layer", in_turn)


def all_parts(threads: int) -> Cutting:
    """Parts however small."""
    return Cutting(threads, 1e-6)


def backwards(program: Program) -> Program:
    """For one thread, with the parts of each section from the last to the first."""
    calls = [call for section in program.sections for part in reversed(section) for call in part]
    return replace(program, threads=1, calls=tuple(replace(c, section=0, part=0) for c in calls))


def run(
    graph: fx.GraphModule,
    inputs: Sequence[np.ndarray],
    profile: HardwareProfile,
    folder: Path,
    choose: Choose = select,
) -> tuple[Program, list[np.ndarray]]:
    """The outputs of the binary for raw inputs (in the program's dtypes)."""
    program = lower(graph, profile, "net", choose)
    return program, run_program(program, inputs, profile, folder)


def emulator_command(profile: HardwareProfile) -> list[str]:
    """What stands before a program of the profile on this machine."""
    if profile.emulator:
        return [profile.emulator.program, "-cpu", profile.emulator.cpu]
    return [str(tile_emulator())] if is_emulated(profile) else []


def run_program(
    program: Program,
    inputs: Sequence[np.ndarray],
    profile: HardwareProfile,
    folder: Path,
    threads: Sequence[int] = (),
) -> list[np.ndarray]:
    """The outputs of a program, which are the same on each number of `threads`."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_emulated(profile):
        needed = tuple(f for f in program.required_cpu_features if f not in TILE_FEATURES)
        program = replace(program, required_cpu_features=needed)
    kernels = build(program.functions, profile, folder / "kernels.o")
    expected = make_self_test([np.zeros(info.shape, info.dtype) for info in program.outputs], is_exact=True)
    emit_sources(program, folder, expected)
    linker = link.choose_linker(profile.triple)
    binary = link.link_executable(
        linker, "net", kernels, folder, folder / "net", is_threaded=program.threads > 1
    )
    files = []
    for index, (array, info) in enumerate(zip(inputs, program.inputs, strict=True)):
        assert array.dtype == info.dtype
        files.append(folder / f"input{index}.bin")
        array.tofile(files[-1])
    command = [*emulator_command(profile), str(binary), *map(str, files), "-o", str(folder / "out")]
    results = []
    for option in [["--threads", str(count)] for count in threads] or [[]]:
        done = subprocess.run([*command, *option], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        results.append(
            [(folder / "out" / f"output{i}.bin").read_bytes() for i in range(len(program.outputs))]
        )
    assert all(result == results[0] for result in results)
    return [
        np.frombuffer(data, info.dtype).reshape(info.shape)
        for data, info in zip(results[0], program.outputs, strict=True)
    ]
