"""Statistics of samples, held to what they promise by simulation: coverage, detection, false alarms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from haqnas.devices.statistics import (
    LEAST_DRIFT,
    LEAST_SAMPLES,
    compare_pairs,
    effective_count,
    find_drift,
    find_outliers,
    median_interval,
    steady_start,
    summarise,
)

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

# name -> (samples, true median)
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: 100 + rng.standard_normal(n), 100.0),
    "lognormal": (lambda rng, n: np.exp(rng.standard_normal(n)), 1.0),
    "exponential": (lambda rng, n: rng.exponential(1.0, n), math.log(2)),
    "two peaks": (lambda rng, n: np.where(rng.random(n) < 0.5, 1, 2) + 0.7 * rng.random(n) ** 2, 1.85),
}
REPETITIONS = 600
times = st.floats(1e-6, 1e3)


@pytest.fixture
def fixed() -> np.random.Generator:
    """The same numbers in every run: what is asserted is a share of simulations."""
    return np.random.default_rng(20261121)


@pytest.mark.parametrize("count", [LEAST_SAMPLES, 20, 300])
@pytest.mark.parametrize("name", ["normal", "lognormal", "exponential"])
def test_interval_covers_the_median_as_often_as_it_says(
    name: str, count: int, fixed: np.random.Generator
) -> None:
    draw, median = DISTRIBUTIONS[name]
    intervals = [median_interval(draw(fixed, count)) for _ in range(REPETITIONS)]
    covered = sum(found is not None and found.low <= median <= found.high for found in intervals)
    assert covered / REPETITIONS >= 0.93


def test_interval_is_not_wider_than_it_must_be(fixed: np.random.Generator) -> None:
    """For normal noise the interval of the median has 1.25 times the width of that of the mean."""
    widths = []
    for _ in range(100):
        found = median_interval(fixed.standard_normal(400))
        assert found is not None
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(1.2533 * 2 * 1.96 / math.sqrt(400), rel=0.1)


def test_samples_that_resemble_their_neighbours_widen_the_interval(fixed: np.random.Generator) -> None:
    def chain(count: int) -> NDArray[np.float64]:
        steps, values = fixed.standard_normal(count), np.empty(count)
        values[0] = steps[0] / 0.8
        for index in range(1, count):
            values[index] = 0.6 * values[index - 1] + steps[index]
        return values

    intervals = [median_interval(chain(300)) for _ in range(200)]
    covered = sum(found is not None and found.low <= 0 <= found.high for found in intervals)
    assert covered / 200 >= 0.9  # 0.73 where they are taken as independent
    assert effective_count(chain(3000)) < 1500
    assert effective_count(fixed.standard_normal(3000)) == 3000


@pytest.mark.parametrize("count", range(1, LEAST_SAMPLES))
def test_too_few_samples_have_no_interval(count: int) -> None:
    assert median_interval([1.0 + index for index in range(count)]) is None


@given(st.lists(times, min_size=1, max_size=60))
def test_summary_is_in_order_and_does_not_depend_on_units(samples: list[float]) -> None:
    found = summarise(samples)
    assert found.count == len(samples)
    assert found.minimum <= found.median <= found.p90 <= found.p95 <= found.outliers.greatest
    if found.interval is not None:
        assert found.minimum <= found.interval.low <= found.median <= found.interval.high
    scaled = summarise([1024 * value for value in samples])
    assert scaled.median == 1024 * found.median
    assert scaled.outliers.count == found.outliers.count


def test_equal_samples_have_no_spread_no_outliers_no_drift() -> None:
    found = summarise([2.0] * 50)
    assert (found.spread, found.outliers.count, found.drift) == (0.0, 0, None)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (2.0, 2.0)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_preemptions_are_counted_and_do_not_move_the_median(fixed: np.random.Generator) -> None:
    quiet = 100 + fixed.standard_normal(1000)
    disturbed = quiet.copy()
    disturbed[fixed.choice(1000, 30, replace=False)] += 4000
    assert find_outliers(quiet).count <= 1
    found = find_outliers(disturbed)
    assert found.count == pytest.approx(30, abs=1)
    assert found.greatest > 4000
    assert summarise(disturbed).count == 1000
    assert summarise(disturbed).median == pytest.approx(summarise(quiet).median, rel=1e-3)


def test_throttling_is_found(fixed: np.random.Generator) -> None:
    """The clock falls by a tenth after two thirds of the time, under noise of 3 % and preemptions."""
    found = 0
    for _ in range(100):
        samples = 100 + 3 * fixed.standard_normal(300)
        samples[200:] *= 1.1
        samples[fixed.choice(300, 9, replace=False)] *= 30
        drift = find_drift(samples)
        found += drift is not None and 0.07 < drift.change < 0.13
    assert found >= 99


@pytest.mark.parametrize("name", [*DISTRIBUTIONS])
@pytest.mark.parametrize("count", [12, 30, 300])
def test_stationary_noise_raises_a_false_alarm_at_most_once_in_two_hundred(
    name: str, count: int, fixed: np.random.Generator
) -> None:
    draw, _ = DISTRIBUTIONS[name]
    alarms = sum(find_drift(draw(fixed, count)) is not None for _ in range(REPETITIONS))
    assert alarms / REPETITIONS <= 1 / 200


def test_a_drift_too_small_to_matter_is_not_told(fixed: np.random.Generator) -> None:
    ramp = np.linspace(1.0, 1.0 + LEAST_DRIFT / 2, 500) + 1e-4 * fixed.standard_normal(500)
    assert find_drift(ramp) is None
    assert find_drift(np.linspace(1.0, 1.0 + 3 * LEAST_DRIFT, 500)) is not None


def test_steady_state_begins_after_the_fall(fixed: np.random.Generator) -> None:
    levels = [1.0, 1.1, 1.2, 1.3] + [1.4] * 12
    groups = [level + 0.01 * fixed.standard_normal(40) for level in levels]
    assert steady_start([list(group) for group in groups]) == 4
    rising = [[1.0 + 0.1 * index + 0.01 * value for value in range(5)] for index in range(12)]
    assert steady_start(rising) is None


@pytest.mark.parametrize("pairs", [LEAST_SAMPLES, 12, 60])
def test_ratio_of_a_program_to_itself_covers_one(pairs: int, fixed: np.random.Generator) -> None:
    def turn() -> NDArray[np.float64]:
        return np.asarray(np.exp(0.05 * fixed.standard_normal(pairs)))

    covered = sum(not compare_pairs(turn(), turn()).differs for _ in range(300))
    assert covered / 300 >= 0.94


def test_a_difference_is_found_under_noise_that_both_share(fixed: np.random.Generator) -> None:
    """The machine is twice as slow in some turns: pairs see the same, so 12 % stand out."""
    load = np.where(fixed.random(16) < 0.4, 2.0, 1.0)
    first = load * np.exp(0.02 * fixed.standard_normal(16))
    second = 0.88 * load * np.exp(0.02 * fixed.standard_normal(16))
    found = compare_pairs(first, second)
    assert found.differs
    assert found.interval.low < 0.88 < found.interval.high
    assert found.p_value < 0.01
    assert found.interval.high - found.interval.low < 0.06


@given(st.lists(st.tuples(times, times), min_size=LEAST_SAMPLES, max_size=20))
def test_swapping_the_programs_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found, swapped = compare_pairs(first, second), compare_pairs(second, first)
    assert found.interval.low <= found.ratio * (1 + 1e-9)
    assert found.ratio <= found.interval.high * (1 + 1e-9)
    assert found.ratio * swapped.ratio == pytest.approx(1.0)
    assert found.interval.low * swapped.interval.high == pytest.approx(1.0)


def test_comparison_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="at least 6 pairs"):
        compare_pairs([1.0] * 5, [1.0] * 5)
    with pytest.raises(ValueError, match="positive"):
        compare_pairs([1.0] * 6, [0.0] * 6)
