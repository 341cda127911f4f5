"""What samples of one quantity say: median with its interval, outliers, drift, and whether two programs differ.

Pure functions of samples in the order in which they were taken. Timings are skewed and now and then one is a
hundred times the others, so everything here is made of ranks: no mean, no standard deviation, nothing dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import scipy  # its parts are loaded where they are used: scipy.stats takes a second
from numpy.typing import NDArray

CONFIDENCE = 0.95
LEAST_SAMPLES = 6  # with fewer no interval of the median reaches 95 %
# Far out by Tukey's rule, and by more than this share of the median: clocks tick, so the middle half may be one value.
_FAR_QUARTILES, _LEAST_OUTLIER = 3.0, 0.25
# A drift is told where chance explains it less than once in a thousand runs and it is large enough to matter.
DRIFT_CHANCE, LEAST_DRIFT = 1e-3, 0.03
_UNSTEADY_CHANCE = 0.05  # while a steady state is looked for, a false alarm costs only some samples
_DRIFT_GROUPS, _LEAST_DRIFT_SAMPLES = 24, 12
_EXACT_PAIRS = 50  # up to here the null distribution of the signed-rank test is computed, not approximated

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true value lies with `confidence`."""

    low: float
    high: float
    confidence: float = CONFIDENCE

    def half_width(self, middle: float) -> float:
        """Half of the width as a share of `middle`."""
        return (self.high - self.low) / 2 / middle if middle > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Outliers:
    """Samples far above the others: the process was preempted, or the machine did something else."""

    count: int
    share: float
    greatest: float  # of all samples


@dataclass(frozen=True, slots=True)
class Drift:
    """A change that goes on through the samples: `change` is last third / first third - 1, of medians."""

    change: float
    correlation: float  # Spearman's, of time and value
    p_value: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The order statistics of samples, in their unit; `interval` is None for fewer than LEAST_SAMPLES."""

    count: int
    median: float
    minimum: float
    p90: float
    p95: float
    spread: float  # (90th - 10th percentile) / median
    interval: Interval | None
    outliers: Outliers
    drift: Drift | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How the second of two programs compares to the first, from pairs that ran side by side: second / first."""

    pairs: int
    ratio: float
    interval: Interval
    p_value: float  # of the Wilcoxon signed-rank test that they are equal

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.interval.low <= 1.0 <= self.interval.high


def summarise(samples: Sequence[float]) -> Summary:
    """All of the above; raises ValueError for no samples."""
    if not len(samples):
        raise ValueError("no samples to summarise")
    values = np.asarray(samples, np.float64)
    tenth, median, p90, p95 = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9, 0.95)))
    return Summary(
        count=len(values),
        median=median,
        minimum=float(values.min()),
        p90=p90,
        p95=p95,
        spread=(p90 - tenth) / median if median > 0 else 0.0,
        interval=median_interval(values),
        outliers=find_outliers(values),
        drift=find_drift(values),
    )


def summarise_batches(batches: Sequence[Sequence[float]]) -> Summary:
    """The same of samples from several processes; raises ValueError for none.

    Where a process lies in memory changes all of its samples, so a process counts once: the interval is that of the
    medians of processes, widened to what the samples leave open. None for fewer than LEAST_SAMPLES processes.
    """
    summary = summarise([value for batch in batches for value in batch])
    of_medians = median_interval([float(np.median(batch)) for batch in batches])
    if of_medians is None or summary.interval is None:
        return replace(summary, interval=None)
    low, high = min(of_medians.low, summary.interval.low), max(of_medians.high, summary.interval.high)
    return replace(summary, interval=Interval(low, high))


def median_interval(samples: Sequence[float] | Values, confidence: float = CONFIDENCE) -> Interval | None:
    """Of the median, by order statistics: no assumption about the distribution. None where samples are too few.

    Samples that resemble their neighbours (the clock of the CPU, where the process lies in memory) tell less than
    their number says: they count as fewer, by the first-order autocorrelation of being above the median.
    """
    values = np.asarray(samples, np.float64)
    count = effective_count(values)
    rank = int(
        scipy.stats.binom.ppf((1 - confidence) / 2, count, 0.5)
    )  # least with a greater tail than allowed
    if rank < 1:
        return None
    # The rank-th smallest of `count` independent samples, as a place among all of them.
    place = int((rank - 1) / count * len(values))
    ordered = np.sort(values)
    return Interval(float(ordered[place]), float(ordered[len(values) - 1 - place]), confidence)


def effective_count(samples: Sequence[float] | Values) -> int:
    """How many independent samples say as much about the median as these do."""
    values = np.asarray(samples, np.float64)
    if len(values) < 3:
        return len(values)
    above = np.sign(values - np.median(values))
    power = float(np.dot(above, above))
    correlation = float(np.dot(above[1:], above[:-1])) / power if power > 0 else 0.0
    # Chance alone gives about 1 / sqrt(n): below two of those the samples are taken as independent.
    if correlation < 2 / math.sqrt(len(values)):
        return len(values)
    return max(1, int(len(values) * (1 - correlation) / (1 + correlation)))


def find_outliers(samples: Sequence[float] | Values) -> Outliers:
    """Count samples above the third quartile by three times the distance of the quartiles; none is dropped."""
    values = np.asarray(samples, np.float64)
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75))
    fence = max(third + _FAR_QUARTILES * (third - first), median * (1 + _LEAST_OUTLIER))
    count = int(np.count_nonzero(values > fence))
    return Outliers(count, count / len(values), float(values.max()))


def find_drift(samples: Sequence[float] | Values, chance: float = DRIFT_CHANCE) -> Drift | None:
    """A change over time: by ranks of the medians of consecutive groups, so that single outliers have no say.

    Two tests share `chance`: a rank correlation with time, and the first third against the last. None where chance
    explains both more often than that, where the thirds differ by less than LEAST_DRIFT, or for too few samples.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < _LEAST_DRIFT_SAMPLES:
        return None
    groups = np.array_split(values, min(len(values), _DRIFT_GROUPS))
    medians = np.array([np.median(group) for group in groups])
    if np.ptp(medians) == 0:
        return None
    third = len(medians) // 3
    trend = scipy.stats.spearmanr(np.arange(len(medians)), medians)
    step = scipy.stats.mannwhitneyu(medians[:third], medians[-third:])
    first, last = (
        float(np.median(part)) for part in (values[: len(values) // 3], values[-len(values) // 3 :])
    )
    change = last / first - 1 if first > 0 else 0.0
    p_value = min(1.0, 2 * min(float(trend.pvalue), float(step.pvalue)))
    correlation = float(trend.statistic)
    is_drift = p_value < chance and abs(change) >= LEAST_DRIFT and change * correlation > 0
    return Drift(change, correlation, p_value) if is_drift else None


def steady_start(groups: Sequence[Sequence[float]]) -> int | None:
    """The first group of the steady state; None where the second half still drifts.

    The second half says what is steady; of the first, groups stay that come after the last one whose median is further
    than LEAST_DRIFT from it.
    """
    half = len(groups) // 2
    settled = [value for group in groups[half:] for value in group]
    if not settled or find_drift(settled, _UNSTEADY_CHANCE) is not None:
        return None
    level = float(np.median(settled))
    medians = [float(np.median(group)) for group in groups[:half]]
    away = [index for index, median in enumerate(medians) if abs(median - level) >= LEAST_DRIFT * level]
    return away[-1] + 1 if away else 0


def compare_pairs(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """second / first of pairs: the Hodges-Lehmann estimate, and the ratios that a signed-rank test does not refuse.

    Raises ValueError for fewer than LEAST_SAMPLES pairs, unequal numbers, or values that are not positive.
    """
    if len(first) != len(second) or len(first) < LEAST_SAMPLES:
        raise ValueError(
            f"a comparison takes at least {LEAST_SAMPLES} pairs, but got {len(first)} and {len(second)}"
        )
    if min(*first, *second) <= 0:
        raise ValueError("times must be positive to be compared as ratios")
    differences = np.log(np.asarray(second, np.float64)) - np.log(np.asarray(first, np.float64))
    rows, columns = np.triu_indices(len(differences))
    walsh = np.sort((differences[rows] + differences[columns]) / 2)
    skipped = _skipped_means(len(differences), 1 - confidence)
    low, high = float(walsh[skipped]), float(walsh[-1 - skipped])
    return Ratio(
        pairs=len(differences),
        ratio=math.exp(float(np.median(walsh))),
        interval=Interval(math.exp(low), math.exp(high), confidence),
        p_value=_signed_rank_p(differences),
    )


def _skipped_means(pairs: int, chance: float) -> int:
    """How many of the sorted pairwise means lie outside the interval at each end.

    The signed-rank sum of differences from a value is the number of pairwise means above it, so the greatest sum
    whose tail is at most half of `chance` says how many. SciPy has the test, but not this quantile.
    """
    if pairs > _EXACT_PAIRS:
        mean, deviation = pairs * (pairs + 1) / 4, math.sqrt(pairs * (pairs + 1) * (2 * pairs + 1) / 24)
        return int(mean + deviation * float(scipy.stats.norm.ppf(chance / 2)) - 0.5)
    ways = np.ones(1)  # of each rank sum, over all signs
    for rank in range(1, pairs + 1):
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    return int(np.searchsorted(np.cumsum(ways) / 2.0**pairs, chance / 2, side="right")) - 1


def _signed_rank_p(differences: Values) -> float:
    if not np.any(differences):
        return 1.0
    method = "exact" if len(differences) <= _EXACT_PAIRS else "asymptotic"
    return float(scipy.stats.wilcoxon(differences, method=method).pvalue)
