"""The table of a profile: text and back, damage, predictions for known and unknown shapes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haqnas.devices.kernel_times import KernelTime, kernels_of
from haqnas.errors import ConfigurationError
from haqnas.hardware import load_profile
from haqnas.latency_table import LatencyTable, Provenance, predict, read_table, table_text, work_of
from haqnas.pricing import NetworkModel
from tests.measured import PROFILES, canonical_network, uniform_programs

MADE_OF = Provenance(
    "measured", "ns", "local", "2026-11-21", {"haqnas": "0.1.0"}, {"cpu": 'a "CPU"'}, ("net",)
)
HEAD = """schema = 1
name = "mine"
description = "my board"
triple = "aarch64-linux-musl"
cpu = "cortex-a53"
bits = ["w8a8", "w4a8"]
"""
FUNCTION = st.from_regex(r"hq_[a-z0-9_]{1,20}", fullmatch=True)
TIME = st.builds(
    KernelTime,
    st.integers(1, 10**9).map(lambda tenths: tenths * 1e-10),
    st.integers(0, 3000).map(lambda thousandths: thousandths / 1000),
    st.integers(1, 1000),
)


@given(
    st.dictionaries(
        st.tuples(FUNCTION, st.text('rows= 0123x,#é"\\', min_size=1, max_size=30)), TIME, max_size=20
    )
)
def test_a_table_is_read_back(tmp_path_factory, kernels):
    table = LatencyTable(MADE_OF, NetworkModel(1.25, 3.5e-8, 0.015, 7), kernels, {"w8a2": "saves nothing"})
    path = tmp_path_factory.mktemp("table") / "mine.toml"
    path.write_text(HEAD + "\n" + table_text(table))
    found = read_table(path)
    assert found is not None
    assert (found.provenance, found.refused) == (table.provenance, table.refused)
    assert found.model.per_call == pytest.approx(table.model.per_call)
    assert found.kernels.keys() == kernels.keys()
    for kernel, time in kernels.items():
        assert found.kernels[kernel].amount == pytest.approx(time.amount)
        assert found.kernels[kernel].runs == time.runs
    assert load_profile(path).bits == ("w8a8", "w4a8")


def test_a_profile_without_a_table_has_none(tmp_path):
    (tmp_path / "mine.toml").write_text(HEAD)
    assert read_table(tmp_path / "mine.toml") is None


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        ("[measured]\nschema = 9\n", r"\[measured\] must have schema = 1; make it again with haqnas profile"),
        ("[measured]\nschema = 1\n", r"measured\.provenance: .*make it again"),
        ("[measured]\nschema = 1\n[measured.kernels.f]\n'a' = [1]\n", "make it again"),
        ("[measured]\nschema = \n", "is not TOML"),
    ],
)
def test_a_damaged_table_is_explained(tmp_path, measured, message):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + measured)
    with pytest.raises(ConfigurationError, match=message):
        read_table(path)


def test_wrong_bits_of_a_profile_are_explained(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD.replace("w4a8", "w9a8"))
    with pytest.raises(ConfigurationError, match=r"mine\.toml:6: weight bits must be 1 to 8, but got 9"):
        load_profile(path)


@pytest.fixture(scope="module")
def program():
    (uniform,) = uniform_programs(*canonical_network("resnet20"), PROFILES["cortex-a53"], "w8a8")
    return uniform.program


def table_for(program, amount=work_of):
    kernels = {kernel: KernelTime(100 + amount(kernel[1]), 0.0, 1) for kernel in kernels_of(program)}
    counts = replace(MADE_OF, kind="emulated", unit="instructions")
    return LatencyTable(counts, NetworkModel(1.0, 2.0, 0.0, 1), kernels)


def test_known_kernels_are_summed(program):
    table = table_for(program)
    found = predict(table.kernels, table.model, program)
    expected = sum(table.kernels[kernel].amount for kernel in kernels_of(program)) + 2.0 * len(program.calls)
    assert (found.amount, found.estimated) == (pytest.approx(expected), 0.0)


def test_an_unknown_shape_is_estimated_from_others_of_its_function(program):
    table = table_for(program)
    kernels = list(table.kernels)
    missing = next(k for k in kernels if sum(other[0] == k[0] for other in kernels) > 2)
    partial = replace(table, kernels={k: v for k, v in table.kernels.items() if k != missing})
    found, exact = (
        predict(partial.kernels, partial.model, program),
        predict(table.kernels, table.model, program),
    )
    assert found.amount == pytest.approx(exact.amount)  # the made-up times are linear in the work
    assert 0 < found.estimated < 1


def test_an_unknown_function_is_estimated_from_the_most_like(program):
    table = table_for(program)
    function = next(name for name, _ in kernels_of(program) if "add" in name)
    partial = replace(table, kernels={k: v for k, v in table.kernels.items() if k[0] != function})
    found, exact = (
        predict(partial.kernels, partial.model, program),
        predict(table.kernels, table.model, program),
    )
    assert found.amount == pytest.approx(exact.amount)  # its like without the sum is linear in the same work
    assert found.estimated > 0.1


def test_an_empty_table_predicts_nothing(program):
    assert predict({}, table_for(program).model, program) is None


def test_work_counts_what_a_signature_says():
    assert (
        work_of("rows=8 columns=8 channels=64 length=96 taps=3 in=1,2 out=3,4 grid=1x3@0,544")
        == 8 * 8 * 64 * 96 * 3
    )
    assert work_of("extents=16x16x32 strides=0,0,1") == 16 * 16 * 32
    assert work_of("groups=7") == 7
    assert work_of("") == 1
