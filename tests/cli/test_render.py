"""What people read of a measurement."""

import re
from dataclasses import replace

import pytest

from haqnas.cli.render import comparison_rows, latency_rows
from haqnas.devices.comparison import Comparison
from haqnas.devices.latency import Latency

TIMED = Latency(
    "measured",
    "local",
    1200,
    median_s=1.5e-3,
    min_s=1.4e-3,
    p90_s=1.6e-3,
    spread=0.1,
    low_s=1.49e-3,
    high_s=1.51e-3,
    outliers=3,
    caches="warm",
    stopped="precision",
    warnings=("it is hot",),
)
COUNTED = Latency(
    "emulated", "qemu:cortex-a72", 1, instructions=2_000_000, cycles=1_500_000, cycle_model="model X"
)


def test_a_measurement_says_what_it_is_and_how_sure() -> None:
    rows = latency_rows(TIMED)
    text = "\n".join(f"{name}: {value}" for name, value in rows)
    assert "1.500 ms median of 1,200 (measured on local, spread 10%)" in text
    assert "1.490 ms to 1.510 ms with 95 % confidence" in text
    assert "warm" in text
    assert rows[-1] == ("warning", "it is hot")


def test_a_count_says_that_cycles_are_modelled_and_gives_no_time() -> None:
    text = "\n".join(value for _, value in latency_rows(COUNTED))
    assert "2,000,000 instructions, 1,500,000 cycles as modelled (emulated on qemu:cortex-a72" in text
    assert "model X; without misses of caches and of branches" in text
    assert not re.search(r"\d (ms|us)", text)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        ((0.88, 0.86, 0.90), "faster by 12.0% (10.0 to 14.0)"),
        ((1.25, 1.20, 1.30), "slower by 25.0% (20.0 to 30.0)"),
        ((1.01, 0.98, 1.02), "no difference beyond noise (-2.0 to +2.0 %)"),
    ],
)
def test_verdicts(ratio: tuple[float, float, float], verdict: str) -> None:
    comparison = Comparison(TIMED, TIMED, "time", *ratio, rounds=10, p_value=0.01, stopped="precision")
    rows = comparison_rows(comparison, ("one", "other"))
    assert ("verdict", verdict) in rows
    assert [row for row in rows if row[0] == "warning"] == [("warning", "it is hot")]  # once


def test_counts_are_compared_without_noise() -> None:
    fewer = Comparison(COUNTED, COUNTED, "instructions", 0.75, 0.75, 0.75, rounds=1)
    assert fewer.verdict == "instructions: fewer by 25.0%"
    slow = replace(COUNTED, cycles=3_000_000)
    unlike = Comparison(slow, COUNTED, "instructions", 0.75, 0.75, 0.75, rounds=1)
    assert unlike.verdict == "instructions: fewer by 25.0%; modelled cycles: more by 100.0%"
    other_model = Comparison(
        replace(slow, cycle_model="model Y"), COUNTED, "instructions", 0.75, 0.75, 0.75, rounds=1
    )
    assert other_model.verdict == "instructions: fewer by 25.0%"
    equal = Comparison(COUNTED, COUNTED, "instructions", 1.0, 1.0, 1.0, rounds=1)
    assert equal.verdict == "equal instructions"
