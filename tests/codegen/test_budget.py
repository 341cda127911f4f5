"""Programs give up specialised kernels only where they must, and then compute the same."""

import numpy as np
import pytest

from haqnas.codegen.budget import _served, code_sizes, lower_and_build, overhead_bytes
from haqnas.codegen.lower import lower
from haqnas.kernels.table import TABLE
from tests.kernels.test_table import SHAPES, make_case, shipped_profile, side_by_side

BITS = 8


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(2)
    shapes = [*SHAPES["depthwise"], *SHAPES["dot"]]
    cases = [make_case(shape, BITS, BITS, "random", rng) for shape in shapes]
    return side_by_side(cases)[0]


@pytest.mark.parametrize("target", ["x86-amx", "arm-cpu", "riscv64"])
def test_every_function_has_a_size(graph, target, tmp_path):
    program, kernels = lower_and_build(graph, shipped_profile(target), "net", tmp_path, limit_bytes=10**9)
    sizes = code_sizes(kernels)
    assert set(program.functions) <= set(sizes)
    assert all(sizes[symbol] > 0 for symbol in program.functions)


@pytest.mark.parametrize("target", ["x86-amx", "arm-cpu"])
def test_a_tight_limit_leaves_out_functions_until_the_program_fits(graph, target, tmp_path):
    profile = shipped_profile(target)
    (tmp_path / "free").mkdir()
    free, kernels = lower_and_build(graph, profile, "net", tmp_path / "free", limit_bytes=10**9)
    limit = overhead_bytes(free, sum(code_sizes(kernels).values())) - 6000
    (tmp_path / "tight").mkdir()
    tight, kernels = lower_and_build(graph, profile, "net", tmp_path / "tight", limit_bytes=limit)
    assert overhead_bytes(tight, sum(code_sizes(kernels).values())) <= limit
    # Calls may differ: a first layer of another row may read its image without a copy into cells.
    assert [layer.name for layer in tight.layers] == [layer.name for layer in free.layers]
    assert any(kept.kernel != whole.kernel for kept, whole in zip(tight.layers, free.layers, strict=True))


def test_the_same_folder_again_gives_the_same_program(graph, tmp_path):
    profile = shipped_profile("arm-cpu")
    first, kernels = lower_and_build(graph, profile, "net", tmp_path, limit_bytes=70_000)
    before = kernels.stat().st_mtime_ns
    again, _ = lower_and_build(graph, profile, "net", tmp_path, limit_bytes=70_000)
    assert again.calls == first.calls
    assert again.constants == first.constants
    assert kernels.stat().st_mtime_ns == before


def test_each_layer_counts_once(graph):
    """Also a first layer, whose row is chosen twice: once to see how it reads its image."""
    profile = shipped_profile("x86-avx512-vnni")
    program = lower(graph, profile, "net")
    without_stand_in = {row.name for row in TABLE if row.is_general or row.isa == "portable"}
    specialised = [layer for layer in program.layers if layer.row not in without_stand_in]
    assert specialised
    assert sum(_served(program, profile.isas, False).values()) == sum(layer.macs for layer in specialised)


@pytest.mark.parametrize("target", ["x86-avx512-vnni", "x86-64-v3", "cortex-a72"])
def test_no_layer_that_a_vector_kernel_serves_is_left_to_the_portable_one(graph, target, tmp_path):
    """However little room there is: one function of the instruction set stands in for all."""
    profile = shipped_profile(target)
    tight, _ = lower_and_build(graph, profile, "net", tmp_path, limit_bytes=1)
    free = lower(graph, profile, "net")
    portable = {layer.name for layer in free.layers if "/portable" in layer.row}
    found = {layer.name for layer in tight.layers if layer.row.startswith("dot/portable")}
    assert any(layer.row.startswith("dot-general/") for layer in tight.layers)
    assert found <= portable
