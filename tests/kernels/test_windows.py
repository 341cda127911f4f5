"""Pooling equals the reference, bit for bit, for all vector widths of all instruction sets.

Channels below, at and above each number that a kernel takes at once; windows inside the image and over its borders.
"""

import dataclasses

import numpy as np
import pytest
import torch

from haqnas.codegen.images import valid_elements
from haqnas.graph import ops  # noqa: F401  registers the operators
from haqnas.kernels.pieces import lanes_of
from haqnas.kernels.windows import MOST_MAXIMA, MOST_SUMS
from tests.codegen.one_binary import integer_graph, run
from tests.kernels.test_elementwise import Case, network
from tests.kernels.test_table import PROFILES, require_machine, shipped_profile

haqnas = torch.ops.haqnas
CHANNELS = (1, 7, 15, 16, 17, 31, 32, 45, 63, 64, 65, 128, 200)
# kernel, stride, padding, dilation
WINDOWS = (
    ([3, 3], [2, 2], [1, 1], [1, 1]),
    ([2, 2], [2, 2], [0, 0], [1, 1]),
    ([5, 4], [1, 3], [2, 2], [1, 1]),
    ([2, 3], [1, 2], [1, 1], [2, 2]),
    ([9, 1], [1, 1], [4, 0], [1, 1]),
)


def pooling_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for index, channels in enumerate(CHANNELS):
        shape = (1, channels, 9 + index % 2, 8 + index % 3)
        x = rng.choice([0, 255], shape) if index % 4 == 0 else rng.integers(0, 256, shape)
        zeros = [int(z) for z in rng.choice([0, 128, 255], 2)]
        numbers = (
            float(rng.choice([0.5, 1.0, 1.7])),
            *zeros,
            int(rng.choice([0, 5])),
            int(rng.choice([255, 90])),
        )
        window = WINDOWS[index % len(WINDOWS)]
        kernel, stride, padding, _ = window
        functions = (
            lambda x, w=window: haqnas.qmax_pool2d(x, *w, False),
            lambda x, k=(kernel, stride, padding), n=numbers: haqnas.qavg_pool2d(x, *k, False, True, *n),
            lambda x, n=numbers: haqnas.qadaptive_avg_pool2d(x, 1, 1, *n),
            lambda x, n=numbers: haqnas.qadaptive_avg_pool2d(x, 3, 5, *n),
        )
        cases += [Case(function, (x.astype(np.uint8),)) for function in functions]
    return cases


TARGETS = [(isa, name) for isa, names in PROFILES.items() for name in names]


@pytest.mark.parametrize(("isa", "profile_name"), TARGETS, ids=[f"{isa}-{name}" for isa, name in TARGETS])
def test_pooling_equals_the_reference(isa, profile_name, tmp_path):
    shipped = shipped_profile(profile_name)
    profile = dataclasses.replace(shipped, isas=() if isa == "portable" else (isa,))
    require_machine(profile)
    cases = pooling_cases(np.random.default_rng(31))
    arrays = [x for case in cases for x in case.inputs]
    inputs = [torch.from_numpy(x.astype(np.float32)) for x in arrays]
    graph = integer_graph(network(cases), inputs)
    program, outputs = run(graph, arrays, profile, tmp_path)
    called = {call.symbol for call in program.calls}
    for channels in CHANNELS:
        widest, sums = (lanes_of(channels, profile.isas, most) for most in (MOST_MAXIMA, MOST_SUMS))
        assert any(symbol.startswith(f"net_hq_max_pool_{widest}_") for symbol in called)
        assert f"net_hq_average_{sums}" in called
    for index, (output, reference) in enumerate(zip(outputs, graph(*inputs), strict=True)):
        np.testing.assert_array_equal(output, reference.numpy(), err_msg=f"case {index}")


def test_lanes_are_the_widest_that_fit():
    assert [lanes_of(c, ("amx-int8", "avx2"), 64) for c in (64, 63, 31, 16, 15)] == [
        64,
        32,
        16,
        16,
        1,
    ]
    assert lanes_of(200, ("avx512-vnni",), 32) == 32
    assert lanes_of(200, ("avx2",), 64) == 32
    assert lanes_of(200, ("neon",), 64) == lanes_of(200, (), 64) == 16


def test_windows_hold_only_what_is_inside():
    assert valid_elements(5, 3, 3, 2, 1, 1) == [[0, 1], [1, 2, 3], [3, 4]]
