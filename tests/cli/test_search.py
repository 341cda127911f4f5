"""Searches by trials on the command line: what is printed and kept, Ctrl-C and the same command again."""

import json
import os
import signal
from pathlib import Path

import pytest

from haqnas import search_data
from haqnas.artifact import load, verify
from haqnas.cli.main import run
from haqnas.report.trials import read_trials
from haqnas.report.write import write_report

MODEL = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
FIXED = ["--target", "arm-cpu", "--device", "table", "--format", "a", "--include", "*", "--no-compare"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def search(caches, tmp_path, capfd, monkeypatch):
    """(exit code, stdout, stderr) of `haqnas compile` of the digits example under a size budget."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))

    def call(*options, output="out"):
        capfd.readouterr()
        budget = ["--size-budget", "60%", *FIXED, *options]
        code = run(["compile", str(MODEL), "-o", str(tmp_path / output), *budget])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def test_strategies_are_compared_at_equal_trials_and_the_firsts_answer_ships(search, tmp_path):
    code, out, err = search("--compare", "marl,random,ilp", "--trials", "6")
    assert code == 0
    assert "marl: trial 6 of 6, best drop " in err
    rows = [line.split() for line in out.splitlines() if line.startswith(("marl ", "random ", "ilp "))]
    assert [(row[0], row[-3]) for row in rows] == [("marl", "6"), ("random", "6"), ("ilp", "1")]
    manifest = load(tmp_path / "out").manifest
    record = manifest.search
    assert (record.strategy, record.num_policies, record.stopped) == ("marl", 6, "trials")
    assert record.packed_weight_bytes <= 0.6 * record.int8_weight_bytes
    assert {one.strategy: one.num_policies for one in record.compared} == {"marl": 6, "random": 6, "ilp": 1}
    assert "study.journal" in manifest.files
    verify(tmp_path / "out")
    rows = read_trials(tmp_path / "out" / "study.journal")
    assert [(row.number, row.strategy, row.fidelity) for row in rows] == [
        (k, strategy, "ptq") for strategy in ("marl", "random") for k in range(6)
    ]
    assert max(row.score for row in rows[:6]) == -record.drop
    assert set(rows[0].choices) == {"stem.0", "down.0", "body.0", "classifier"}
    assert "What was tried" in write_report(load(tmp_path / "out"), [("budget", "60%")]).read_text()
    # The same again finds it complete.
    code, again, _ = search("--compare", "marl,random,ilp", "--trials", "6", "--json", "--quiet")
    found = json.loads(again)["search"]["compared"]
    assert [one["drop"] for one in found] == [one.drop for one in record.compared]


def test_ctrl_c_compiles_the_best_so_far_and_the_same_command_goes_on(search, tmp_path, monkeypatch):
    score, calls = search_data.score_top1, []

    def interrupting(*arguments):
        calls.append(arguments)
        if len(calls) == 4:  # the float model, then three policies
            os.kill(os.getpid(), signal.SIGINT)
        return score(*arguments)

    monkeypatch.setattr(search_data, "score_top1", interrupting)
    code, out, err = search("--strategy", "marl", "--trials", "8")
    assert code == 0
    assert "interrupted: the best so far is compiled" in err
    assert "3 of 8; interrupted: the same command goes on" in out
    assert load(tmp_path / "out").manifest.search.stopped == "interrupted"
    code, out, _ = search("--strategy", "marl", "--trials", "8")
    assert (code, len(calls)) == (0, 4 + 1 + 5)
    resumed = load(tmp_path / "out").manifest
    assert (resumed.search.num_policies, resumed.search.stopped) == (8, "trials")
    search("--strategy", "marl", "--trials", "8", output="whole")
    whole = load(tmp_path / "whole").manifest
    assert resumed.search == whole.search
    for name in ("policy.json", "lib/libdigits.a"):
        assert resumed.files[name] == whole.files[name]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--trials", "5"), "--trials is for strategies that make trials; add --strategy marl"),
        (("--strategy", "marl", "--bits", "8"), "--strategy chooses the bits"),
        (("--strategy", "marl", "--trials", "0"), "--trials is a number from 1, but got 0"),
        (("--strategy", "marl", "--workers", "0"), "--workers is a number from 1 to 64, but got 0"),
        (("--strategy", "marl", "--time-budget", "0s"), "--time-budget is more than 0 seconds"),
        (("--strategy", "ilp", "--study", "sqlite:///x.db"), "--study is for strategies that make trials"),
        (("--compare", "marl,marl"), "--compare names each strategy once"),
        (("--compare", "marl,luck"), "--strategy is one of ilp, evolution"),
        (("--compare", "ilp,marl", "--strategy", "marl"), "leave --strategy out, or put it first"),
        (("--strategy", "marl", "--study", "luck", "--trials", "2"), "--study luck cannot be used"),
    ],
)
def test_options_that_do_not_fit_end_with_2(search, options, words):
    code, _, err = search(*options)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
