"""Every row of the elementwise table equals the reference operators, bit for bit, on its instruction set.

The cases come from the table: a row of a kind without cases cannot exist. Pieces shorter and longer than registers,
slices, borders, broadcasts; random and extreme values, ties of the rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from haqnas.graph import ops  # noqa: F401  registers the operators
from haqnas.kernels import elementwise_table
from haqnas.kernels.elementwise_table import TABLE
from haqnas.kernels.pieces import Work
from tests.codegen.one_binary import integer_graph, run
from tests.kernels.test_table import PROFILES, make_sum, profile_of, require_machine

haqnas = torch.ops.haqnas
aten = torch.ops.aten

# (height, width, channels): channels lie next to each other.
SHAPES = (
    *((1, 1, c) for c in (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 300)),
    (5, 7, 3),
    (4, 4, 16),
    (3, 5, 67),
    (2, 6, 24),
    (7, 7, 40),
)


Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """A function of images (height, width, channels) and the raw values of these."""

    function: Callable[..., Tensor]
    inputs: tuple[np.ndarray, ...]


def image(x: Tensor) -> Tensor:
    """(1, height, width, channels) -> (1, channels, height, width), a view."""
    return aten.permute.default(x, [0, 3, 1, 2])


def values(size: Shape, rng: np.random.Generator) -> np.ndarray:
    """Random, extreme, or every byte in turn."""
    kind, shape = rng.integers(3), (1, *size)
    if kind == 0:
        return rng.choice([0, 255], shape).astype(np.uint8)
    if kind == 1:
        return np.resize(rng.permutation(256), shape).astype(np.uint8)
    return rng.integers(0, 256, shape).astype(np.uint8)


def bordered(x: Tensor, shape: Shape) -> Tensor:
    """Read with a border, so that `x` is written between the lines of a larger image."""
    channels = shape[2]
    weight = torch.ones(channels, 1, 3, 3, dtype=torch.int8)
    bias, scale = torch.zeros(channels, dtype=torch.int32), torch.full((channels,), 0.11)
    return haqnas.qconv2d(x, weight, bias, scale, [1, 1], [1, 1], [1, 1], channels, 8, 8, 9, 0, 0, 255)


def as_it_is(x: Tensor, _: Shape) -> Tensor:
    return x


def without_edges(x: Tensor, shape: Shape) -> Tensor:
    """A slice of channels and of columns."""
    return aten.slice.Tensor(aten.slice.Tensor(x, 1, 1, shape[2]), 3, 0, max(1, shape[1] - 1))


def turned(x: Tensor, _: Shape) -> Tensor:
    return aten.permute.default(x, [0, 1, 3, 2])


VIEWS = (as_it_is, without_edges, turned)


def one_image_cases(
    make: Callable[[np.random.Generator], Callable[[Tensor], Tensor]], rng: np.random.Generator
) -> list[Case]:
    """`make` gives an operator with scalars of its own; all shapes, seen in different ways."""
    cases = []
    for index, shape in enumerate(s for s in SHAPES for _ in range(2)):
        operator, view = make(rng), VIEWS[index % len(VIEWS) if shape[2] > 1 else 0]
        cases.append(Case(lambda x, o=operator, v=view, s=shape: o(v(image(x), s)), (values(shape, rng),)))
    return cases


def table_cases(rng: np.random.Generator) -> list[Case]:
    def make(rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
        table = torch.from_numpy(rng.permutation(256).astype(np.uint8))
        return lambda x: haqnas.qtable(x, table)

    operator = make(rng)
    inside = [
        Case(lambda x, s=shape: bordered(operator(image(x)), s), (values(shape, rng),))
        for shape in ((3, 5, 67), (4, 4, 16))
    ]
    return one_image_cases(make, rng) + inside


# What the second operand of a sum or product is, given an image (height, width, channels).
BROADCASTS: tuple[Callable[[int, int, int], Shape], ...] = (
    lambda h, w, c: (h, w, c),
    lambda h, w, c: (1, 1, c),
    lambda h, w, c: (1, w, c),
    lambda h, w, c: (h, 1, c),
    lambda h, w, c: (h, w, 1),
    lambda h, w, c: (1, 1, 1),
)


def two_image_cases(
    make: Callable[[np.random.Generator], Callable[[Tensor, Tensor], Tensor]], rng: np.random.Generator
) -> list[Case]:
    """All shapes with all broadcasts, either operand the smaller one."""
    cases = []
    for index, shape in enumerate(SHAPES):
        for other in BROADCASTS:
            operator, is_first = make(rng), rng.random() < 0.5
            pair = [values(shape, rng), values(other(*shape), rng)]
            pair = pair[::-1] if is_first else pair
            end = bordered if index % 3 == 0 else as_it_is
            function = lambda a, b, o=operator, e=end, s=shape: e(o(image(a), image(b)), s)  # noqa: E731
            cases.append(Case(function, tuple(pair)))
    sliced, shape = make(rng), (3, 5, 70)
    function = lambda a, b: sliced(without_edges(image(a), shape), without_edges(image(b), shape))  # noqa: E731
    return [*cases, Case(function, (values(shape, rng), values(shape, rng)))]


def bounds(rng: np.random.Generator) -> tuple[int, int, int]:
    """Zero point, least and greatest output."""
    return int(rng.choice([0, 128, 255, 31])), int(rng.choice([0, 0, 9])), int(rng.choice([255, 255, 200]))


def add_cases(rng: np.random.Generator) -> list[Case]:
    def make(rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
        scalars = make_sum(int(rng.choice([0, 3, 128, 255])), rng)
        return lambda a, b: haqnas.qadd(a, b, *scalars)

    return two_image_cases(make, rng)


def mul_cases(rng: np.random.Generator) -> list[Case]:
    def make(rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
        zeros = [int(z) for z in rng.choice([0, 255, 128, 77], 2)]
        # 0.5 and its like make ties; 1e6 leaves the range of int32.
        scale = float(np.float32(rng.choice([0.5, 0.125, 1 / 255, 0.0131, 1e6])))
        numbers = (*zeros, scale, *bounds(rng))
        return lambda a, b: haqnas.qmul(a, b, *numbers)

    return two_image_cases(make, rng)


def copy_cases(rng: np.random.Generator) -> list[Case]:
    return one_image_cases(lambda _: lambda x: aten.cat.default([x, x], 1), rng)


def fill_cases(rng: np.random.Generator) -> list[Case]:
    def make(rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
        value = int(rng.integers(256))
        return lambda x: aten.constant_pad_nd.default(x, [1, 0, 2, 1], value)

    return one_image_cases(make, rng)


def quantize_cases(rng: np.random.Generator) -> list[Case]:
    def make(rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
        scale, zero = float(np.float32(rng.choice([0.5, 0.031]))), int(rng.integers(256))
        numbers = (float(np.float32(rng.choice([1.0, 3.7, 1e9]))), *bounds(rng))
        return lambda x: haqnas.quantize(haqnas.dequantize(x, scale, zero), *numbers)

    return one_image_cases(make, rng)


CASES = {
    "table": table_cases,
    "add": add_cases,
    "mul": mul_cases,
    "copy": copy_cases,
    "fill": fill_cases,
    "quantize": quantize_cases,
    "dequantize": quantize_cases,
}
ROWS = [(row, name) for row in TABLE for name in PROFILES[row.isa]]


def network(cases: list[Case]) -> nn.Module:
    """All cases side by side; symbolic tracing needs inputs with names."""
    names = [f"x{i}_{k}" for i, case in enumerate(cases) for k in range(len(case.inputs))]
    lines = [f"def forward(self, {', '.join(names)}):"]
    for i, case in enumerate(cases):
        inputs = ", ".join(f"haqnas.quantize(x{i}_{k}, 1.0, 0, 0, 255)" for k in range(len(case.inputs)))
        lines.append(f"    y{i} = cases[{i}].function({inputs})")
    lines.append(f"    return [{', '.join(f'y{i}' for i in range(len(cases)))}]")
    namespace: dict = {"haqnas": haqnas, "cases": cases}
    exec("\n".join(lines), namespace)
    return type("Network", (nn.Module,), {"forward": namespace["forward"]})()


@pytest.mark.parametrize(("row", "profile_name"), ROWS, ids=[f"{row.name}-{name}" for row, name in ROWS])
def test_row_equals_the_reference(row, profile_name, tmp_path, monkeypatch):
    profile = profile_of(row, profile_name)
    require_machine(profile)
    served: list[str] = []

    def noting(work: Work, isas: tuple[str, ...]) -> object:
        chosen = select(work, isas)
        served.append(chosen.name)
        return chosen

    select = elementwise_table.select
    monkeypatch.setattr(elementwise_table, "select", noting)
    rng = np.random.default_rng(23)
    cases = CASES[row.kind](rng)
    arrays = [x for case in cases for x in case.inputs]
    inputs = [torch.from_numpy(x.astype(np.float32)) for x in arrays]
    graph = integer_graph(network(cases), inputs)
    expected = graph(*inputs)
    _, outputs = run(graph, arrays, profile, tmp_path)
    assert served.count(row.name) >= 8, "the row served hardly a case"
    for index, (output, reference) in enumerate(zip(outputs, expected, strict=True)):
        np.testing.assert_array_equal(output, reference.numpy(), err_msg=f"{row.name} case {index}")
