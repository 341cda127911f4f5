"""The benchmark's own arithmetic, on runners whose times are known."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.benchmarks import page, report
from tests.benchmarks.arm import RECORDED, Count
from tests.benchmarks.bars import EIGHT, Results, bars
from tests.benchmarks.compare import Comparison
from tests.benchmarks.contenders import OURS, Turn
from tests.benchmarks.interleave import Schedule, Timing, best_peer, interleave, ratio
from tests.benchmarks.network_model import Prediction, mixed_policies, undisturbed_s
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.peers import PEERS
from tests.benchmarks.tuning import Tuning


@dataclass
class Clockwork:
    """Takes `time_ns` a run, and twice that while the machine is `slow`."""

    name: str
    time_ns: int
    turns: list[str]
    slow_turns: frozenset[int] = field(default_factory=frozenset)

    def turn(self, runs: int) -> Turn:
        factor = 2 if len(self.turns) in self.slow_turns else 1
        self.turns.append(self.name)
        return Turn((self.time_ns * factor,) * runs, preemptions=0)


SCHEDULE = Schedule(rounds=4, turn_s=1e-4)


def test_turns_alternate_and_a_slow_minute_does_not_change_the_ratio():
    turns: list[str] = []
    slow = frozenset({4, 5})  # the second round: both runners are measured once before
    runners = [Clockwork("a", 3000, turns, slow), Clockwork("b", 1500, turns, slow)]
    timings = interleave(runners, SCHEDULE)
    assert turns == ["a", "b", "a", "b", "b", "a", "a", "b", "b", "a"]
    found = ratio(timings["a"], timings["b"])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)
    assert timings["a"].median_s == pytest.approx(3e-6)


def timing(median_s: float) -> Timing:
    return Timing(median_s, (median_s,) * 3, median_s, median_s, 3, 0.0)


def comparison(network: str, peers_s: Mapping[str, float], ours_s: float) -> Comparison:
    timings = {OURS: timing(ours_s), **{name: timing(time_s) for name, time_s in peers_s.items()}}
    best = best_peer(timings, OURS)
    return Comparison(
        network,
        cores=(1,),
        timings=timings,
        snr_db=dict.fromkeys(timings, 30.0),
        unsupported={},
        best=best,
        ratio=ratio(timings[best], timings[OURS]),
        checks=("binary: the golden outputs, bit for bit",),
    )


def test_bars_compare_with_the_fastest_peer_and_name_the_worst_network():
    factors = dict(zip(EIGHT, (1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0), strict=True))
    slower = {"openvino int8": 3.0, "onnxruntime int8 qdq": 9.0}
    results = Results(
        [
            comparison(name, {peer: time_s * factor for peer, time_s in slower.items()}, 3.0)
            for name, factor in factors.items()
        ]
    )
    by_name = {bar.name: bar for bar in bars(results)}
    mean = by_name["1 thread, best peer / ours: geometric mean of eight networks"]
    assert mean.got == pytest.approx(statistics.geometric_mean(factors.values()))
    worst = by_name["1 thread: worst of the eight"]
    assert (worst.got, worst.place, worst.verdict) == (pytest.approx(1.5), "resnet18", "ok")
    assert by_name["1 thread: ResNet-20"].verdict == "missed"
    assert by_name["1 thread: autoencoder"].verdict == "not measured"
    assert by_name["2 threads: worst of the eight"].verdict == "not measured"
    assert "openvino" in report.results_text(results)
    found = {"bars": [{**asdict(bar), "verdict": bar.verdict} for bar in bars(results)]}
    lines = page.page({**asdict(results), **found}).splitlines()
    row = next(line for line in lines if line.startswith("| resnet18"))
    assert "| 1.50 (1.50 to 1.50) | openvino int8 |" in row


def test_counts_are_compared_core_by_core():
    counts = [
        Count(name, cpu, ours=litert // 2, litert=litert, litert_source="recorded", checks=())
        for cpu, networks in RECORDED.items()
        for name, litert in networks.items()
    ]
    arm = [bar for bar in bars(Results(counts=counts)) if "LiteRT" in bar.name]
    assert len(arm) == 4
    assert all(bar.verdict == "ok" and bar.got == pytest.approx(2.0) for bar in arm)


@pytest.mark.parametrize(("slowest", "verdict"), [(1.14, "ok"), (1.16, "missed")])
def test_the_choice_by_rule_may_be_15_percent_slower_than_the_tuned_one(slowest, verdict):
    times_s = dict.fromkeys(EIGHT, 1e-3) | {"vww": 1e-3 * slowest}
    tunings = [
        Tuning(name, 20.0, by_rule_s, 1e-3, ratio(timing(by_rule_s), timing(1e-3)), 1, 9)
        for name, by_rule_s in times_s.items()
    ]
    results = Results(tunings=tunings)
    bar = next(bar for bar in bars(results) if "tuned" in bar.name)
    assert (bar.place, bar.verdict) == ("vww", verdict)
    assert bar.got == pytest.approx(1 / slowest)
    assert f"{slowest:.2f} to {slowest:.2f}" in report.results_text(results)
    document = {"bars": [], **asdict(results)}
    assert f"| {slowest:.2f} ({slowest:.2f} to {slowest:.2f}) | 1 of 9 |" in page.page(document)


@pytest.mark.parametrize(("error", "host", "cortex_a72"), [(0.02, "ok", "ok"), (0.05, "ok", "missed")])
def test_predictions_may_be_wrong_by_so_much(error, host, cortex_a72):
    predictions = [
        Prediction(name, target, index, "s", 1.0 + sign * error, 1.0)
        for name in EIGHT
        for target in ("host", "cortex-a72")
        for index, sign in enumerate((-1, 1))  # errors of both signs do not make up for each other
    ]
    results = Results(predictions=predictions)
    found = {bar.name.split(",")[0]: bar for bar in bars(results) if "network model" in bar.name}
    assert {target: bar.verdict for target, bar in found.items()} == {"host": host, "cortex-a72": cortex_a72}
    assert found["host"].got == pytest.approx(error)
    assert f"{error:.2%}" in report.results_text(results)
    assert f"| vww | {error:.1%} | {error:.1%} |" in page.page({"bars": [], **asdict(results)})
    few = Results(predictions=predictions[4:])
    assert {bar.verdict for bar in bars(few) if "network model" in bar.name} == {"not measured"}


def test_policies_are_mixed_and_the_same_every_time():
    layers = [f"layer{index}" for index in range(20)]
    policies = mixed_policies(layers, 4)
    assert policies == mixed_policies(layers, 4)
    assert policies[:2] == mixed_policies(layers, 2)
    assert len({policy.to_json() for policy in policies}) == 4
    assert all(len(set(policy.layers.values())) > 2 for policy in policies)


def test_disturbed_runs_do_not_count():
    assert undisturbed_s([0.5, *[1.0] * 9, *[7.0] * 10]) == pytest.approx(1.0)


def test_all_names_exist():
    assert set(EIGHT) < set(NETWORKS)
    assert all(set(networks) < set(NETWORKS) for networks in RECORDED.values())
    folder = Path(report.__file__).parent / "peers"
    assert {path.stem for path in folder.glob("*.py")} == {*PEERS, "__init__"}
