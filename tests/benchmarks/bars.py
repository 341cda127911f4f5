"""The bars that the project set itself, and where the results of a run stand against them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.benchmarks.arm import Count
from tests.benchmarks.compare import Comparison
from tests.benchmarks.low_bits import CONV_7, CONV_14, LINEAR, Gain
from tests.benchmarks.network_model import Prediction, mean_error
from tests.benchmarks.roofline import Roofline
from tests.benchmarks.tuning import Tuning

EIGHT = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet20",
    "resnet8",
    "ds_cnn",
    "vww",
)
TINY = ("resnet8", "ds_cnn", "vww")


@dataclass
class Results:
    """Everything that a run of the benchmarks found; grows while it runs."""

    comparisons: list[Comparison] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    rooflines: list[Roofline] = field(default_factory=list)
    tunings: list[Tuning] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that must be `limit` `wanted`; `got` is None where this run did not measure all it needs."""

    name: str
    wanted: float
    got: float | None
    place: str  # which of several it is, for the worst one
    limit: Literal["at least", "at most"] = "at least"

    @property
    def verdict(self) -> str:
        if self.got is None:
            return "not measured"
        is_met = self.got >= self.wanted if self.limit == "at least" else self.got <= self.wanted
        return "ok" if is_met else "missed"


def bars(results: Results) -> tuple[Bar, ...]:
    """All bars, in the order of docs/performance.md."""
    one, two = (_peer_ratios(results.comparisons, threads) for threads in (1, 2))
    found = [
        _mean("1 thread, best peer / ours: geometric mean of eight networks", 1.6, one, EIGHT),
        _worst("1 thread: worst of the eight", 1.05, one, EIGHT),
        _worst("1 thread: ResNet-20", 2.5, one, ("resnet20",)),
        _worst("1 thread: worst of ResNet-8, DS-CNN, VWW", 2.0, one, TINY),
        _worst("1 thread: autoencoder", 1.2, one, ("autoencoder",)),
        _mean("2 threads: geometric mean of the eight", 1.4, two, EIGHT),
        _worst("2 threads: worst of the eight", 1.0, two, EIGHT),
    ]
    for cpu in ("cortex-a76", "cortex-a72"):
        ratios = {count.network: count.ratio for count in results.counts if count.cpu == cpu}
        found.append(
            _worst(f"{cpu}, instructions, LiteRT / ours: worst of ResNet-8, DS-CNN, VWW", 1.3, ratios, TINY)
        )
        found.append(
            _worst(f"{cpu}, instructions, LiteRT / ours: autoencoder", 1.1, ratios, ("autoencoder",))
        )
    for name, wanted, target, bits, shapes in (
        ("x86-64-v3, w2a4 over w8a8", 1.8, "x86-64-v3", "w2a4", (CONV_14, CONV_7)),
        ("host, w4a8 over w8a8 where weights are memory-bound", 1.3, "host", "w4a8", (CONV_7, LINEAR)),
        ("cortex-a72, instructions, w2a4 over w8a8", 1.8, "cortex-a72", "w2a4", (CONV_14, CONV_7)),
    ):
        ratios = {g.shape: g.ratio.median for g in results.gains if (g.target, g.bits) == (target, bits)}
        found.append(_worst(name, wanted, ratios, shapes))
    by_rule = {one.network: 1 / one.ratio.median for one in results.tunings}
    found.append(_worst("1 thread, tuned / by rule (within 15 %): worst of the eight", 0.87, by_rule, EIGHT))
    for target, wanted in (("host", 0.07), ("cortex-a72", 0.03)):
        found.append(_error(target, wanted, [p for p in results.predictions if p.target == target]))
    return tuple(found)


def _error(target: str, wanted: float, predictions: Sequence[Prediction]) -> Bar:
    name = f"{target}, network model: mean |error| over the eight at mixed bits"
    is_measured = set(EIGHT) <= {one.network for one in predictions}
    return Bar(name, wanted, mean_error(predictions) if is_measured else None, "", "at most")


def _peer_ratios(comparisons: Sequence[Comparison], threads: int) -> dict[str, float]:
    return {one.network: one.ratio.median for one in comparisons if len(one.cores) == threads}


def _mean(name: str, wanted: float, ratios: Mapping[str, float], needed: Sequence[str]) -> Bar:
    if not set(needed) <= set(ratios):
        return Bar(name, wanted, None, "")
    return Bar(name, wanted, math.exp(sum(math.log(ratios[key]) for key in needed) / len(needed)), "")


def _worst(name: str, wanted: float, ratios: Mapping[str, float], needed: Sequence[str]) -> Bar:
    if not set(needed) <= set(ratios):
        return Bar(name, wanted, None, "")
    place = min(needed, key=lambda key: ratios[key])
    return Bar(name, wanted, ratios[place], place)
