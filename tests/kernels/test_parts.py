"""Every row of the kernel table computes layers that are cut into parts, in whatever order the parts run.

The program of each row runs on one thread with its parts backwards: a part that wrote into another's place, or needed
what another leaves behind, would show.
"""

import itertools

import numpy as np
import pytest
import torch

from haqnas.codegen.lower import lower
from tests.codegen.one_binary import all_parts, backwards, integer_graph, run_program, split_everything
from tests.kernels.test_table import (
    ROWS,
    SHAPES,
    Chain,
    forced,
    make_case,
    make_chain,
    profile_of,
    require_machine,
    shipped_profile,
    side_by_side,
)

PARTS = 3


@pytest.mark.parametrize(("row", "profile_name"), ROWS, ids=[f"{row.name}-{name}" for row, name in ROWS])
def test_parts_of_a_layer_equal_the_whole(row, profile_name, tmp_path, monkeypatch):
    profile = profile_of(row, profile_name)
    require_machine(profile)
    rng = np.random.default_rng(5)
    bits = itertools.cycle([(8, 8), (1, 2), (4, 4), (3, 8), (8, 8)])
    cases = [make_case(shape, *next(bits), "random", rng) for shape in SHAPES[row.kind] * 2]
    graph, raw = side_by_side(cases)
    expected = graph(*(torch.from_numpy(x.astype(np.float32)) for x in raw))
    split_everything(monkeypatch)
    program = lower(graph, profile, "net", forced(row), cutting=all_parts(PARTS))
    assert any(len(section) > 1 for section in program.sections)
    outputs = run_program(backwards(program), raw, profile, tmp_path)
    for case, output, reference in zip(cases, outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference.numpy(), err_msg=f"{row.name} {case['window']}")


@pytest.mark.parametrize("target", ["x86-amx", "x86-64-v3", "cortex-a76", "riscv64"])
def test_layers_in_parts_fill_their_borders(target, tmp_path, monkeypatch):
    """Layers that read each other: a part also writes the border of its own rows."""
    profile = shipped_profile(target)
    require_machine(profile)
    cases = make_chain(np.random.default_rng(3))
    raw = cases[0]["x"]
    inputs = torch.from_numpy(raw.astype(np.float32))
    graph = integer_graph(Chain(cases), [inputs])
    split_everything(monkeypatch)
    program = lower(graph, profile, "net", cutting=all_parts(PARTS))
    symbols = [{call.symbol for part in section for call in part} for section in program.sections]
    assert any(
        len(together) > 1 and any(s.startswith("net_hq_halo_") for s in together) for together in symbols
    )
    (expected,) = graph(inputs)
    for name, changed, threads in (("backwards", backwards(program), ()), ("threads", program, (1, 2, 3))):
        (output,) = run_program(changed, [raw], profile, tmp_path / name, threads)
        np.testing.assert_array_equal(output, expected.numpy(), err_msg=name)
