"""Run integer graphs as binaries: lower, build, link, execute (under an emulator where needed), read the outputs."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from haqnas.codegen import link
from haqnas.codegen.draft import Choose
from haqnas.codegen.emit import emit_sources
from haqnas.codegen.lower import lower
from haqnas.codegen.objects import build
from haqnas.codegen.program import Program
from haqnas.codegen.selftest import make_self_test
from haqnas.hardware import HardwareProfile
from haqnas.kernels.table import select


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


def run(
    graph: fx.GraphModule,
    inputs: Sequence[np.ndarray],
    profile: HardwareProfile,
    folder: Path,
    choose: Choose = select,
) -> tuple[Program, list[np.ndarray]]:
    """The outputs of the binary for raw inputs (in the program's dtypes)."""
    program = lower(graph, profile, "net", choose)
    folder.mkdir(parents=True, exist_ok=True)
    kernels = build(program.functions, profile, folder / "kernels.o")
    expected = make_self_test([np.zeros(info.shape, info.dtype) for info in program.outputs], is_exact=True)
    emit_sources(program, folder, expected)
    binary = link.link_executable(link.choose_linker(profile.triple), "net", kernels, folder, folder / "net")
    files = []
    for index, (array, info) in enumerate(zip(inputs, program.inputs, strict=True)):
        assert array.dtype == info.dtype
        files.append(folder / f"input{index}.bin")
        array.tofile(files[-1])
    emulator = [profile.emulator.program, "-cpu", profile.emulator.cpu] if profile.emulator else []
    command = [*emulator, str(binary), *map(str, files), "-o", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outputs = [
        np.fromfile(folder / "out" / f"output{i}.bin", info.dtype).reshape(info.shape)
        for i, info in enumerate(program.outputs)
    ]
    return program, outputs
