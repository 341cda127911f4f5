"""Whole networks for AMX, on every CPU with AVX-512 VBMI: where tile instructions are missing, they are emulated."""

import pytest

from haqnas.artifact import CONSTANTS, GOLDEN_INPUTS, GOLDEN_OUTPUTS, GRAPH, decode_arrays
from haqnas.rewrite.serialize import load_graph
from tests.codegen.one_binary import run
from tests.kernels.test_table import require_machine, shipped_profile
from tests.system.test_zoo import compile_for

AMX = shipped_profile("x86-amx")


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8", "w4a8"])
def test_resnet20_on_tiles_gives_its_golden_outputs(bits, tmp_path):
    require_machine(AMX)
    artifact = compile_for(AMX.name, "resnet20", bits, tmp_path)
    constants = decode_arrays(artifact.directory / CONSTANTS)
    graph = load_graph((artifact.directory / GRAPH).read_text(), constants)
    (inputs,), (outputs,) = (
        decode_arrays(artifact.directory / path).values() for path in (GOLDEN_INPUTS, GOLDEN_OUTPUTS)
    )
    assert len(inputs)
    for index in range(len(inputs)):
        program, (given,) = run(graph, [inputs[index : index + 1]], AMX, tmp_path / str(index))
        assert given.tobytes() == outputs[index].tobytes()
    assert sum(layer.kernel.startswith("dot/amx-int8") for layer in program.layers) >= 19
