"""Parts of a layer or of an elementwise operator: each output exactly once, at the place where the whole has it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haqnas.codegen import split
from haqnas.codegen.lower import lower
from haqnas.codegen.split import Balance, Cutting, Part, cuts, even_ranges, split_elementwise, split_layer
from haqnas.kernels import elementwise_table
from haqnas.kernels.finish import Finish
from haqnas.kernels.pieces import Nest, Work
from haqnas.kernels.row import Geometry, Kernel, Residual
from haqnas.kernels.table import TABLE
from tests.codegen.one_binary import all_parts, backwards, run_program, split_everything
from tests.codegen.test_operators import CASES, network
from tests.kernels.test_table import integer_graph, require_machine, shipped_profile

EXTENTS = st.integers(1, 12)


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 70))
def test_ranges_cover_an_extent_in_whole_units(extent, count, unit):
    ranges = even_ranges(extent, count, unit)
    assert 1 <= len(ranges) <= count
    assert [first for first, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == extent
    assert all(first % unit == 0 for first, _ in ranges)
    units = [-(-(end - first) // unit) for first, end in ranges]
    assert max(units) - min(units) <= 1


@st.composite
def geometries(draw):
    rows, columns, channels = draw(EXTENTS), draw(EXTENTS), draw(st.integers(1, 150))
    kind = draw(st.sampled_from(["dot", "depthwise", "grouped"]))
    in_column, gap = draw(st.integers(1, 99)), draw(st.integers(0, 99))
    return Geometry(
        kind=kind,
        rows=rows,
        columns=columns,
        channels=channels,
        length=draw(st.integers(1, 64)),
        offsets=tuple(range(draw(st.integers(1, 9)))),
        group_out=1,
        in_row=columns * in_column + gap,
        in_column=in_column,
        out_row=columns * channels + gap,
        out_column=channels,
        zero_point=0,
        low=0,
        high=255,
        weight_bits=8,
        act_bits=8,
        residual=draw(st.sampled_from([None, Residual(columns * channels, channels, (0,) * 8)])),
    )


def places(part: Part) -> dict[int, tuple[int, ...]]:
    """Output element -> where its input, its residual and its channel's constants lie."""
    g = part.geometry
    r, c, n = np.meshgrid(*map(np.arange, (g.rows, g.columns, g.channels)), indexing="ij")
    reads = n if g.kind == "depthwise" else 0 * n
    extra = part.residual() + r * g.residual.row + c * g.residual.column + n if g.residual else 0 * n
    columns = (
        part.target() + r * g.out_row + c * g.out_column + n,
        part.source() + r * g.in_row + c * g.in_column + reads,
        extra,
        part.channel + n,
    )
    flat = np.stack([column.reshape(-1) for column in columns], axis=1).tolist()
    found = {row[0]: tuple(row[1:]) for row in flat}
    assert len(found) == len(flat)
    return found


@given(geometries(), st.sampled_from(TABLE), st.integers(1, 8))
def test_parts_of_any_geometry_cover_each_output_once(geometry: Geometry, kernel: Kernel, count: int):
    whole = places(Part(geometry))
    for parts in cuts(geometry, kernel, count):
        assert 1 <= len(parts) <= count
        covered = [places(part) for part in parts]
        assert sum(map(len, covered)) == len(whole)
        assert {k: v for part in covered for k, v in part.items()} == whole
        assert all(part.channel % kernel.block == 0 for part in parts)


@given(st.tuples(EXTENTS, EXTENTS, st.integers(1, 500)), st.integers(1, 8))
def test_parts_of_an_elementwise_operator_cover_each_element_once(extents, count):
    _, b, c = extents
    strides = (2 * b * c, c, 1)
    work = Work("table", Nest(extents, (strides, strides)), (), (np.zeros(256, np.uint8),))
    row = elementwise_table.select(work, ["avx2"])
    axis, parts = split_elementwise(work, row, all_parts(count))
    covered = [
        first * strides[axis] + sum(i * s for i, s in zip(index, strides, strict=True))
        for first, part in parts
        for index in np.ndindex(part.nest.extents)
    ]
    assert sorted(covered) == sorted(
        sum(i * s for i, s in zip(index, strides, strict=True)) for index in np.ndindex(extents)
    )


def a_layer(rows: int, columns: int, channels: int, length: int) -> Geometry:
    return Geometry(
        "dot", rows, columns, channels, length, (0,), channels, columns * length, length,
        columns * channels, channels, 0, 0, 255, 8, 8,
    )  # fmt: skip


@pytest.mark.parametrize("kernel", [row for row in TABLE if row.kind == "dot"], ids=lambda row: row.name)
def test_what_is_small_stays_whole(kernel):
    small = a_layer(2, 6, 16, 16)
    if kernel.accepts(small) and kernel.isa != "portable":
        assert split_layer(small, kernel, Finish.UINT8, Cutting(4)) == (Part(small),)


def test_weights_from_afar_are_read_once_and_rows_kept_where_weights_are_few():
    (kernel,) = [row for row in TABLE if row.name == "dot/avx512-vnni/8x32"]
    heavy = split_layer(a_layer(7, 7, 512, 4608), kernel, Finish.UINT8, Cutting(2))
    assert [part.channel for part in heavy] == [0, 256]
    light = split_layer(a_layer(56, 56, 64, 64), kernel, Finish.UINT8, Cutting(2))
    assert [part.row for part in light] == [0, 28]
    one_pixel = split_layer(a_layer(1, 1, 4096, 4096), kernel, Finish.UINT8, Cutting(2))
    assert [part.channel for part in one_pixel] == [0, 2048]


def test_a_program_that_gains_little_is_not_cut():
    long, short = 10 * split.LEAST_PART_NS, split.LEAST_PART_NS / 10
    mostly_short = Balance()
    for _ in range(200):
        mostly_short = mostly_short.after(short, 1)
    assert not mostly_short.after(2 * split.LEAST_PART_NS, 2).pays
    assert Balance().after(long, 2).after(long, 2).pays
    assert not Balance().pays


@pytest.mark.parametrize("target", ["x86-amx", "x86-64-v3", "arm-cpu"])
def test_operators_in_parts_equal_the_reference(target, tmp_path, monkeypatch):
    profile = shipped_profile(target)
    require_machine(profile)
    rng = np.random.default_rng(4)
    arrays = [rng.integers(0, 256, shape).astype(np.uint8) for name in CASES for shape in CASES[name][1]]
    inputs = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
    graph = integer_graph(network(list(CASES)), inputs)
    expected = graph(*inputs)
    split_everything(monkeypatch)
    program = lower(graph, profile, "net", cutting=all_parts(3))
    for name, changed, threads in (("backwards", backwards(program), ()), ("threads", program, (1, 2, 3))):
        outputs = run_program(changed, arrays, profile, tmp_path / name, threads)
        for case, output, reference in zip(CASES, outputs, expected, strict=True):
            np.testing.assert_array_equal(output, reference.numpy(), err_msg=f"{name}: {case}")


def test_one_thread_is_the_default_and_makes_no_sections(tmp_path):
    rng = np.random.default_rng(4)
    arrays = [rng.integers(0, 256, shape).astype(np.uint8) for name in CASES for shape in CASES[name][1]]
    inputs = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
    graph = integer_graph(network(list(CASES)), inputs)
    program = lower(graph, shipped_profile("x86-64-v3"), "net")
    assert program.threads == 1
    assert len(program.sections) == 1
