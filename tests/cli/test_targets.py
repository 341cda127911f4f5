"""`haqnas compile` for several targets: one artefact each, one table, one JSON object, one exit code."""

import json

import pytest

from haqnas import targets
from haqnas.errors import VerificationError
from tests.cli.command import refuse, write
from tests.cli.models import GOOD

TARGETS = ("--target", "arm-cpu", "--target", "x86-64-v3")
QUICK = (*TARGETS, "--device", "table", "--format", "a", "--no-compare")


@pytest.fixture
def model(tmp_path):
    return write(tmp_path, GOOD)


def test_each_target_has_an_artefact_and_a_line(haqnas, model, tmp_path):
    result = haqnas("compile", model, "-o", tmp_path / "out", "--bits", "w4a8", *QUICK)
    assert result.returncode == 0, result.stderr
    head, *lines = result.stdout.splitlines()
    assert head.split()[:3] == ["target", "accuracy", "latency"]
    assert [line.split()[0] for line in lines] == ["arm-cpu", "x86-64-v3"]
    assert all((tmp_path / "out" / line.split()[0] / "manifest.json").exists() for line in lines)
    assert "] " in result.stderr
    assert "x86-64-v3: build: kernels for x86-64-v3" in result.stderr
    assert "haqnas: [18/18]" in result.stderr


def test_programs_get_a_list(haqnas, model, tmp_path):
    """Exit code 3 where one of them misses a budget."""
    budget = ("--bits", "8", "--size-budget", "1KiB", "--quiet", "--json")
    result = haqnas("compile", model, "-o", tmp_path / "out", *budget, *QUICK)
    document = json.loads(result.stdout)
    assert document["ok"] is (result.returncode == 0)
    assert [one["target"] for one in document["targets"]] == ["arm-cpu", "x86-64-v3"]
    assert all(
        one["ok"] == all(limit["is_met"] for limit in one["constraints"]) for one in document["targets"]
    )
    assert result.returncode == (0 if all(one["ok"] for one in document["targets"]) else 3)
    narrow = haqnas("compile", model, "-o", tmp_path / "out", "--bits", "8", "--size-budget", "1", *QUICK)
    assert narrow.returncode == 3
    assert narrow.stdout.count("MISSED") == 2


def test_the_error_of_a_target_is_told_at_the_end_with_its_exit_code(haqnas, model, tmp_path, monkeypatch):
    real = targets.run_task

    def run(subject, task, report, others):
        if task.options.profile.name == "arm-cpu":
            raise VerificationError("one byte differs")
        return real(subject, task, report, others)

    monkeypatch.setattr(targets, "run_task", run)
    result = haqnas("compile", model, "-o", tmp_path / "out", *QUICK)
    refuse(result, 5, "haqnas: error: arm-cpu: one byte differs")
    _, failed, made = result.stdout.splitlines()
    assert failed.split()[:3] == ["arm-cpu", "failed:", "VERIFICATION"]
    assert made.startswith("x86-64-v3")
    again = haqnas("compile", model, "-o", tmp_path / "out", "--json", *QUICK)
    document = json.loads(again.stdout)
    assert (document["ok"], again.returncode) == (False, 5)
    one, other = document["targets"]
    assert (one["code"], one["exit_code"], one["message"]) == ("VERIFICATION", 5, "one byte differs")
    assert other["ok"] is True


def test_targets_that_do_not_fit_end_with_2_before_the_model_is_read(haqnas, tmp_path):
    call = ("compile", tmp_path / "missing.py", "-o", tmp_path / "out")
    refuse(haqnas(*call, "--target", "arm-cpu", "--target", "arm-cpu"), 2, "arm-cpu is named twice")
    refuse(
        haqnas(*call, *TARGETS, "--device", "qemu:max"), 2, "--device qemu:max runs programs of one target"
    )
    assert not (tmp_path / "out").exists()
