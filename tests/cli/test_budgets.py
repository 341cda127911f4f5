"""Budgets on the command line: exit codes of budgets that are met, missed and out of reach."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from haqnas.cli.main import run
from tests.cli.models import GOOD

MODEL = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
TIMEOUT_S = 300
REFUSAL_S = 10  # of the process itself: with prices that are known, whatever else the machine does


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def compile_digits(caches, tmp_path, capfd, monkeypatch):
    """(exit code, document on stdout, stderr) of `haqnas compile` by the table of arm-cpu."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))

    def call(*options):
        capfd.readouterr()
        fixed = ["--target", "arm-cpu", "--device", "table", "--format", "a", "--json", "--quiet"]
        code = run(["compile", str(MODEL), "-o", str(tmp_path / "out"), *fixed, *options])
        captured = capfd.readouterr()
        return code, json.loads(captured.out), captured.err

    return call


def test_budgets_that_are_met_end_with_0(compile_digits, tmp_path):
    budgets = ["--latency-budget", "95%", "--size-budget", "80%", "--max-drop", "0.05"]
    code, document, _ = compile_digits(*budgets)
    assert (code, document["ok"]) == (0, True)
    found = {constraint["name"]: constraint for constraint in document["constraints"]}
    assert set(found) == {"latency", "size", "max_drop"}
    for constraint in found.values():
        assert constraint["is_met"]
        assert constraint["found"] <= constraint["limit"]
    assert found["size"]["found"] == document["sizes"]["packed_weight_bytes"]
    assert document["search"]["strategy"] == "ilp"
    policy = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert len(set(policy["layers"].values())) > 1
    # The same command again finds it complete, and ends alike.
    again, complete, _ = compile_digits(*budgets)
    assert (again, complete["constraints"]) == (0, document["constraints"])


def test_budgets_that_are_missed_end_with_3_and_an_artefact(compile_digits, tmp_path):
    budgets = ["--bits", "w3a8", "--latency-budget", "95%", "--size-budget", "10%", "--max-drop", "0"]
    code, document, _ = compile_digits(*budgets)
    assert (code, document["ok"]) == (3, False)
    missed = {constraint["name"] for constraint in document["constraints"] if not constraint["is_met"]}
    assert missed >= {"latency", "size"}  # w3a8 takes longer than w8a8 here, and three eighths of the bytes
    assert (tmp_path / "out" / "manifest.json").exists()
    assert compile_digits(*budgets)[0] == 3


@pytest.mark.parametrize(("limit", "exit_code"), [("10s", 0), ("0.001us", 3)])
def test_an_amount_is_held_against_the_measured_median(tmp_path, capfd, limit, exit_code):
    """On this machine: kernels are measured, the binary is measured, and bits that were given are not searched."""
    (tmp_path / "net.py").write_text(GOOD)
    words = ["compile", str(tmp_path / "net.py"), "-o", str(tmp_path / "out"), "--format", "exe", "--json"]
    assert run([*words, "--bits", "8", "--latency-budget", limit]) == exit_code
    document = json.loads(capfd.readouterr().out)
    (constraint,) = document["constraints"]
    assert (constraint["kind"], constraint["unit"], document["search"]) == ("measured", "s", None)
    assert constraint["found"] == document["latency"]["median_s"]


def test_a_drop_that_is_missed_ends_with_3(compile_digits):
    code, document, _ = compile_digits("--bits", "w1a2", "--max-drop", "0.01")
    assert code == 3
    (constraint,) = document["constraints"]
    assert (constraint["name"], constraint["kind"]) == ("max_drop", "top-1 on val_data")
    assert constraint["found"] > 0.01


def test_a_budget_out_of_reach_ends_with_2_within_seconds_and_leaves_nothing(caches, tmp_path):
    (tmp_path / "net.py").write_text(GOOD)
    fixed = ["--target", "arm-cpu", "--device", "table", "--include", "*", "--json"]

    def refuse():
        return subprocess.run(
            [
                *(sys.executable, "-m", "haqnas.cli.main", "compile", tmp_path / "net.py"),
                *("-o", tmp_path / "none", "--size-budget", "1%", *fixed),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(caches), "OMP_NUM_THREADS": "1"},
        )

    refuse()  # from now on prices are known
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = refuse()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 2, result.stderr
    document = json.loads(result.stdout)
    assert document["code"] == "INFEASIBLE_BUDGET"
    assert "packed weights reach from " in document["message"]
    assert not (tmp_path / "none").exists()
    assert after.ru_utime - before.ru_utime < REFUSAL_S


def test_what_was_chosen_is_told(compile_digits, tmp_path, capfd, monkeypatch):
    compile_digits("--size-budget", "60%")
    capfd.readouterr()
    assert run(["inspect", str(tmp_path / "out")]) == 0
    text = capfd.readouterr().out
    assert "(by ilp)" in text
    assert "of uniform int8 (table of" in text
    assert "size 60%: " in text
    assert "(exact): met" in text


def test_sensitivities_are_those_that_the_search_saw(compile_digits, tmp_path, capfd):
    compile_digits("--size-budget", "60%")
    capfd.readouterr()
    assert run(["inspect", str(tmp_path / "out"), "--sensitivity", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["method"], document["num_samples"]) == ("gradient", 256)
    losses = document["losses"]
    assert set(losses) == {"stem.0", "down.0", "body.0", "classifier"}
    assert losses["down.0"]["w2a8"] > losses["down.0"]["w4a8"] > losses["down.0"]["w8a8"]
    assert run(["inspect", str(tmp_path / "out"), "--sensitivity"]) == 0
    assert "thousandths of a nat" in capfd.readouterr().out


def test_sensitivities_of_a_model_file_need_no_artefact(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = [
        "inspect",
        f"{MODEL}:build_model",
        "--sensitivity",
        "--bits",
        "w4a8,w2a4",
        "--method",
        "kl",
        "--json",
    ]
    assert run(words) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["method"] == "kl"
    assert set(document["losses"]["body.0"]) == {"w8a8", "w4a8", "w2a4"}
    assert run(["inspect", str(MODEL), "--sensitivity", "--method", "luck"]) == 2
    assert "gradient, pairwise, kl" in capfd.readouterr().err


def test_bits_that_were_given_have_no_sensitivities(compile_digits, tmp_path, capfd):
    compile_digits("--bits", "w4a8", "--no-compare")
    capfd.readouterr()
    assert run(["inspect", str(tmp_path / "out"), "--sensitivity"]) == 2
    assert "were given, not searched" in capfd.readouterr().err
