"""`haqnas bench`: comparisons, precision, what is refused."""

import json
from pathlib import Path

import pytest

from tests.cli.command import Haqnas, Result, refuse


def test_bench_compares_two_artefacts(haqnas: Haqnas, compiled: tuple[Path, Path, Result]) -> None:
    directory = compiled[1]
    result = haqnas("bench", directory, "--against", directory, "--runs", 10, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["comparison"]
    assert found["low"] <= found["ratio"] <= found["high"]
    assert (found["figure"], found["rounds"]) == ("time", 10)
    assert found["first"]["kind"] == "measured"
    assert found["verdict"]


def test_bench_that_misses_its_precision_says_so(haqnas: Haqnas, compiled: tuple[Path, Path, Result]) -> None:
    result = haqnas("bench", compiled[1], "--precision", "0.000001%", "--time-limit", 1, "--json", "--cold")
    assert result.returncode == 3
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["latency"]["stopped"] == "time"
    assert document["latency"]["caches"] == "cold"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--precision", "much"), "write 1% or 0.01"),
        (("--precision", "1%", "--runs", 5), "do not go together"),
        (("--sustained", 10, "--runs", 5), "do not go together"),
        (("--sustained", 1), "5 to 86400 s"),
        (("--precision", "100%"), "between 0 and 1"),
        (("--time-limit", 0), "time limit"),
    ],
)
def test_bench_refuses_what_makes_no_sense(
    haqnas: Haqnas, compiled: tuple[Path, Path, Result], options: tuple[str, ...], words: str
) -> None:
    refuse(haqnas("bench", compiled[1], *options), 2, words)


def test_bench_needs_a_run(haqnas: Haqnas, compiled: tuple[Path, Path, Result]) -> None:
    refuse(haqnas("bench", compiled[1], "--runs", 0), 2, "at least 1")
