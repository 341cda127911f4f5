"""Every row of the kernel table leaves the border of its output alone, where it does not say otherwise.

Images of one shape take turns in one place, and only the first of them gets its border filled: what a kernel wrote
beside its rows, the next layer would read.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from haqnas.quantspec import act_range
from tests.codegen.one_binary import integer_graph, run
from tests.kernels.test_table import ROWS, Chain, forced, make_case, make_sum, profile_of, require_machine

ZERO_POINT = 7
LAYERS = 5
# (channels, height, width, kernel, dilation): rows shorter and longer than tiles, channels that fill no whole block
SHAPES = {
    "dot": ((20, 7, 7, 3, 1), (16, 5, 21, 3, 1), (3, 6, 9, 3, 1)),
    "depthwise": ((17, 7, 7, 3, 1), (24, 5, 21, 5, 1), (72, 6, 9, 3, 2)),
    "grouped": ((8, 7, 7, 3, 1), (6, 5, 9, 3, 1), (12, 4, 6, 3, 2)),
}
# All but those that compute one pixel, which has no rows to write beside.
IMAGES = [(row, name) for row, name in ROWS if not row.name.startswith("gemv/") and "/1x" not in row.name]


def make_chain(
    kind: str, shape: tuple[int, ...], bits: tuple[int, int], rng: np.random.Generator
) -> list[dict]:
    """Layers that keep shape and zero point; every second one of a dot product adds its input."""
    channels, height, width, kernel, dilation = shape
    groups = {"dot": 1, "depthwise": channels, "grouped": 2}[kind]
    padding = dilation * (kernel // 2)
    cases = []
    for index in range(LAYERS):
        full = (channels, channels, height, width, kernel, kernel, 1, padding, dilation, groups)
        case = make_case(full, *bits, "random", rng)
        greatest = act_range(bits[1])[1]
        case["clamp"] = (ZERO_POINT, 0, greatest)
        case.pop("sum", None)
        if kind == "dot" and index % 2:
            scalars = make_sum(ZERO_POINT, rng)
            case["sum"] = (*scalars[:5], ZERO_POINT, 0, greatest)
        cases.append(case)
    return cases


class Chains(nn.Module):
    """Side by side."""

    def __init__(self, chains: list[list[dict]]):
        super().__init__()
        self.chains = nn.ModuleList(map(Chain, chains))

    def forward(self, x0: Tensor, x1: Tensor, x2: Tensor) -> list[Tensor]:
        return [chain(x) for chain, x in zip(self.chains, (x0, x1, x2), strict=True)]


@pytest.mark.parametrize(("row", "profile_name"), IMAGES, ids=[f"{row.name}-{name}" for row, name in IMAGES])
def test_borders_stay_whole(row, profile_name, tmp_path):
    profile = profile_of(row, profile_name)
    if row.can_be_signed:
        profile = dataclasses.replace(profile, isas=tuple({row.isa: 0, "neon": 0}))
    require_machine(profile)
    rng = np.random.default_rng(11)
    narrow = (2, 4 if 4 in row.act_bits else 8)
    bits = narrow if row.name.startswith("narrow/") else (8, 8)
    chains = [make_chain(row.kind, shape, bits, rng) for shape in SHAPES[row.kind]]
    raw = [chain[0]["x"] for chain in chains]
    inputs = [torch.from_numpy(x.astype(np.float32)) for x in raw]
    graph = integer_graph(Chains(chains), inputs)
    program, outputs = run(graph, raw, profile, tmp_path, forced(row))
    assert any(layer.kernel.startswith(row.name) for layer in program.layers), "the row served no layer"
    fills = sum(call.symbol.startswith("net_hq_halo_") for call in program.calls)
    kept = 2 if row.writes_beside else 2 * len(chains)  # all but two of each chain, and the copy of its input
    assert fills <= LAYERS * len(chains) - kept
    for output, reference in zip(outputs, graph(*inputs), strict=True):
        np.testing.assert_array_equal(output, reference.numpy())
