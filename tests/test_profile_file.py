"""The file of a profile: later sweeps add to it, those of another machine or version begin anew and say so."""

import re
from dataclasses import replace

import pytest

from haqnas.devices.kernel_times import KernelTime
from haqnas.errors import ConfigurationError
from haqnas.hardware import load_profile
from haqnas.latency_table import LatencyTable, Provenance, read_table
from haqnas.pricing import Cost, ProgramTime, fit_model
from haqnas.profile_file import SAVES_NOTHING, join_tables, join_verdicts, profile_text, read_earlier
from haqnas.quantspec import QuantSpec

HEAD = """schema = 1
name = "mine"
description = "my board"
triple = "aarch64-linux-musl"
cpu = "cortex-a53"
"""
MADE_OF = Provenance(
    "measured", "ns", "local", "2026-11-20", {"tvm": "1"}, {"cpu": "A53", "key": "abc"}, ("first",)
)
W8A8, W4A8, W4A4, W2A2 = map(QuantSpec.parse, ("w8a8", "w4a8", "w4a4", "w2a2"))
NOTHING, WRONG = f"{SAVES_NOTHING} against w8a8", "first: wrong numbers on local"


def table(networks, kernels, programs, refused=()):
    runs = {label: ProgramTime(whole, Cost(amount, 3)) for label, (whole, amount) in programs.items()}
    times = {("hq_f", name): KernelTime(amount, 0.1, 5) for name, amount in kernels.items()}
    return LatencyTable(
        replace(MADE_OF, networks=networks), fit_model(runs.values()), times, dict(refused), runs
    )


OLD = table(
    ("first",), {"a": 1e-6, "b": 2e-6}, {"first w8a8": (1.1e-5, 1e-5)}, {"w4a4": NOTHING, "w2a2": WRONG}
)
NEW = table(("second",), {"b": 3e-6, "c": 4e-6}, {"second w8a8": (2.6e-5, 2e-5)})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(profile_text(HEAD, (W8A8, W4A8), OLD))
    return path


def test_what_was_recorded_is_read_again(file):
    found = read_earlier(file, load_profile(file), replace(MADE_OF, date="2027-01-01", networks=("second",)))
    assert found.replaced is None
    assert found.verdicts == {W8A8: None, W4A8: None, W4A4: NOTHING, W2A2: WRONG}
    assert found.table == read_table(file)
    (run,) = found.table.programs.values()
    assert (run.whole, run.kernels) == (pytest.approx(1.1e-5), Cost(pytest.approx(1e-5), 3))


def test_kernels_and_programs_are_kept_unless_measured_anew():
    found = join_tables(OLD, NEW)
    assert {name: time.amount for (_, name), time in found.kernels.items()} == {
        "a": 1e-6,
        "b": 3e-6,
        "c": 4e-6,
    }
    assert found.provenance.networks == ("first", "second")
    assert found.programs == {**OLD.programs, **NEW.programs}
    # Of both: one program says 1.1 times its kernels, the other 1.3.
    assert found.model.num_programs == 2
    assert 1.1 < found.model.scale < 1.3
    assert join_tables(OLD, OLD) == replace(OLD, refused={})  # those are joined with what is legal


def test_verdicts_are_those_of_one_sweep_over_all_networks():
    old = {W8A8: None, W4A8: None, W4A4: NOTHING, W2A2: WRONG}
    new = {W8A8: None, W4A8: NOTHING, W4A4: None, W2A2: None}
    # What pays with one network is worth choosing; what fails with one is not.
    assert join_verdicts(old, new, is_anew=False) == {W8A8: None, W4A8: None, W4A4: None, W2A2: WRONG}
    assert join_verdicts(new, old, is_anew=False) == {W8A8: None, W4A8: None, W4A4: None, W2A2: WRONG}
    assert join_verdicts(old, {W4A4: NOTHING}, is_anew=False) == old
    # The same networks again, and more: the new verdicts hold; bits that were not swept keep theirs.
    assert join_verdicts(old, new, is_anew=True) == new
    assert join_verdicts(old, {W2A2: None}, is_anew=True) == {**old, W2A2: None}


@pytest.mark.parametrize(
    ("made_of", "words"),
    [
        (
            replace(MADE_OF, machine={"cpu": "A72", "key": "other"}),
            r"measured on another machine \(A53 at local\)",
        ),
        (replace(MADE_OF, kind="emulated"), "measured on another machine"),
        (replace(MADE_OF, versions={"tvm": "2"}), r"other versions: tvm 1 \(now 2\); they are not kept"),
    ],
)
def test_times_of_another_machine_or_version_are_not_kept_and_that_is_told(file, made_of, words):
    found = read_earlier(file, load_profile(file), made_of)
    assert (found.table, found.verdicts) == (None, {})
    assert found.replaced is not None
    assert re.search(words, found.replaced), found.replaced


def test_times_of_another_target_are_not_kept(file):
    profile = replace(load_profile(file), isas=("neon",))
    assert "of another target" in (read_earlier(file, profile, MADE_OF).replaced or "")
    described = replace(load_profile(file), description="the same")
    assert read_earlier(file, described, MADE_OF).replaced is None


def test_a_file_without_times_is_written_and_one_that_is_no_profile_is_refused(tmp_path, file):
    profile = load_profile(file)
    (tmp_path / "bare.toml").write_text(HEAD)
    for name in ("bare.toml", "not-there.toml"):
        found = read_earlier(tmp_path / name, profile, MADE_OF)
        assert (found.table, found.replaced) == (None, None)
    (tmp_path / "text.toml").write_text("shopping list")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        read_earlier(tmp_path / "text.toml", profile, MADE_OF)
