"""Strategies on NAS-Bench-201 under limits of latency measured by HELP.

python -m tests.benchmarks.nasbench201 --data /path/to/nasbench201.npz

Nine devices, limits at the 30th and the 60th percentile of latency. The reward is the validation accuracy on CIFAR-10,
the verdict the test accuracy of the architecture with the best reward: how many points it is below that of the
allowed architecture with the best validation accuracy (regret). Each search has 200 evaluations; what it has found
after 50 and after 100 of them is judged too, for all strategies alike.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haqnas.search.critic import Action, Head, Heads
from haqnas.search.strategy import Task, Trial, load_strategy
from tests.benchmarks.page import table

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
HEADS = Heads(
    tuple(
        Head(f"{a} to {b}", f"node {b}", len(OPERATIONS)) for a, b in EDGES
    ),  # an agent for each node's edges
    tuple(itertools.combinations(range(len(EDGES)), 2)),
)
PERCENTILES = (30, 60)
BUDGETS = (50, 100, 200)  # evaluations
BARS = (1.0, 0.75, 0.85)  # marl's regret over that of the best other strategy, at each budget
OTHERS = ("tpe", "gp", "nsga2", "evolution", "mdenas", "random")
ORIGINS = ("haq", "proxyless")  # of the ideas in marl, beside the verdict
ABLATIONS = ("surrogate", "marl-no-credit", "marl-on-policy", "marl-haq-wall", "marl-sequential")
JUDGED = ("marl", *OTHERS)
STRATEGIES = (*JUDGED, *ORIGINS, *ABLATIONS)
SLOWEST = "tpe"  # its searches begin first
QUICK_SEEDS = 2

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Benchmark:
    """All architectures: where each stands, its accuracies (percent), and milliseconds on each device."""

    index: Mapping[Action, int]
    validation: Vector
    test: Vector
    latencies_ms: Mapping[str, Vector]

    @classmethod
    def read(cls, path: Path) -> "Benchmark":
        with np.load(path) as arrays:
            index = {_parse(name.decode()): place for place, name in enumerate(arrays["arch"])}
            devices = [name for name in arrays.files if name.startswith("ms_")]
            return cls(
                index,
                arrays["cifar10_val"].astype(np.float64),
                arrays["cifar10_test"].astype(np.float64),
                {name.removeprefix("ms_"): arrays[name].astype(np.float64) for name in devices},
            )


@dataclass(frozen=True, slots=True)
class Run:
    """One search: the regret after each budget, in points of test accuracy."""

    strategy: str
    device: str
    percentile: int
    seed: int
    regrets: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Order:
    """What one process is to run."""

    path: Path
    strategy: str
    device: str
    percentile: int
    seed: int


def _parse(name: str) -> Action:
    """`|a~0|+|b~0|c~1|+|d~0|e~1|f~2|`: the operation of each edge."""
    parts = name.replace("|+|", "|").strip("|").split("|")
    return tuple(OPERATIONS.index(part.partition("~")[0]) for part in parts)


def search(benchmark: Benchmark, order: Order, budgets: Sequence[int]) -> Run:
    start_s = time.process_time()
    latencies = benchmark.latencies_ms[order.device]
    limit = float(np.percentile(latencies, order.percentile))
    allowed = np.flatnonzero(latencies <= limit)
    optimum = benchmark.test[allowed[benchmark.validation[allowed].argmax()]]
    task = Task(HEADS, lambda action: float(latencies[benchmark.index[action]]) / limit, budgets[-1])
    strategy = load_strategy(order.strategy)(task, np.random.default_rng(order.seed))
    found: list[int] = []
    for _ in range(budgets[-1]):
        action = strategy.ask()
        assert action is not None  # there are thousands within each limit
        found.append(benchmark.index[action])
        strategy.tell(Trial(action, float(benchmark.validation[found[-1]])))
    assert len(set(found)) == len(found)
    assert latencies[found].max() <= limit
    best = [max(found[:budget], key=benchmark.validation.__getitem__) for budget in budgets]
    regrets = tuple(float(optimum - benchmark.test[one]) for one in best)
    return Run(
        order.strategy, order.device, order.percentile, order.seed, regrets, time.process_time() - start_s
    )


def _run(order: Order) -> Run:
    return search(_read(order.path), order, BUDGETS)


@cache
def _read(path: Path) -> Benchmark:
    return Benchmark.read(path)


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over all settings, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def average(runs: Sequence[Run], strategy: str) -> tuple[Figure, ...]:
    """Of the regret at each budget: settings count alike, and the error is that of their seeds."""
    by_setting: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for run in runs:
        if run.strategy == strategy:
            by_setting.setdefault((run.device, run.percentile), []).append(run.regrets)
    means = np.array([np.mean(regrets, axis=0) for regrets in by_setting.values()])
    variances = np.array([np.var(regrets, axis=0, ddof=1) / len(regrets) for regrets in by_setting.values()])
    errors = np.sqrt(variances.sum(0)) / len(by_setting)
    return tuple(Figure(float(m), float(e)) for m, e in zip(means.mean(0), errors, strict=True))


def ratio(ours: Figure, other: Figure) -> Figure:
    """By the delta method."""
    found = ours.mean / other.mean
    return Figure(found, abs(found) * float(np.hypot(ours.error / ours.mean, other.error / other.mean)))


def page(runs: Sequence[Run]) -> str:
    """The table, and marl against the best other strategy with the bar."""
    known = {run.strategy for run in runs}
    figures = {name: average(runs, name) for name in STRATEGIES if name in known}
    rows = []
    for name, found in figures.items():
        own = [run for run in runs if run.strategy == name]
        seeds = len({run.seed for run in own})
        seconds = f"{np.mean([run.seconds for run in own]):.2g}"
        rows.append((name, *map(str, found), str(seeds), seconds))
    header = (
        "mean regret, points",
        *(f"{budget} evaluations" for budget in BUDGETS),
        "seeds",
        "CPU s a search",
    )
    lines = [table(header, rows)]
    if not known >= {*JUDGED}:
        return "\n".join([*lines, "not all strategies ran: nothing is said of the bars"])
    for place, (budget, bar) in enumerate(zip(BUDGETS, BARS, strict=True)):
        best = min(OTHERS, key=lambda name: figures[name][place].mean)
        share = ratio(figures["marl"][place], figures[best][place])
        verdict = "met" if share.mean <= bar else "missed"
        lines.append(f"- {budget} evaluations: marl / {best} = {share}; at most {bar:g}: {verdict}")
    return "\n".join(lines)


def orders(path: Path, strategies: Sequence[str], devices: Sequence[str], num_seeds: int) -> list[Order]:
    """All searches, the slow ones first, so that processes end together."""
    names = sorted(strategies, key=lambda name: name != SLOWEST)
    return [
        Order(path, name, device, percentile, seed)
        for name in names
        for seed in range(num_seeds)
        for device in devices
        for percentile in PERCENTILES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.nasbench201", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="nasbench201.npz")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STRATEGIES,
        default=JUDGED,
        metavar="STRATEGY",
        help="instead of those that the bars are about",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SEEDS} seeds, two devices: tells nothing"
    )
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: at least 2, for a standard error")
    if not given.data.is_file():
        parser.error(f"--data: {given.data} is no file")
    devices = tuple(Benchmark.read(given.data).latencies_ms)
    seeds = QUICK_SEEDS if given.quick else given.seeds
    start_s = time.monotonic()
    todo = orders(given.data, given.only, devices[:2] if given.quick else devices, seeds)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes, which import NumPy anew
    runs = []
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for run in pool.map(_run, todo):
            runs.append(run)
            if len(runs) % 100 == 0:
                print(f"{len(runs)} of {len(todo)}, {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    print(page(runs))
    print(f"\n{len(runs)} searches, {(time.monotonic() - start_s) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
