"""Never slower: other bits than 8 are compared with uniform int8; bits that haqnas chose ship only where they win."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import haqnas
from haqnas import baseline as baselines
from haqnas import products
from haqnas.baseline import UNIFORM, build_to_ship, is_uniform
from haqnas.bit_stage import Chosen
from haqnas.cli.render import baseline_rows
from haqnas.devices.comparison import Comparison, compare_predictions
from haqnas.devices.latency import Latency
from haqnas.evaluate import Judges
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.manifest import Baseline
from haqnas.options import Options, check_options
from haqnas.quantspec import QuantSpec
from haqnas.settings import Settings
from haqnas.space.outcome import SearchRecord
from haqnas.space.policy import Policy
from haqnas.stages import Compiled, run_stages
from tests.small_net import Net

FOUR = Policy(QuantSpec(8, 8), {"conv": QuantSpec(4, 4)})
INPUTS = (torch.zeros(1, 2, 6, 6),)


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@dataclass(frozen=True)
class Builds:
    """A network in the bits of FOUR and in 8 bits, compiled once."""

    options: Options
    canonical: GraphModule
    four: Compiled
    eight: Compiled

    def make(self, policy: Policy, _folder: Path, _report: object, float_score: float | None) -> Compiled:
        assert float_score is None  # of agreement there is none
        return self.eight if policy == UNIFORM else self.four

    def ship(self, work: Path, is_chosen: bool, **changes: object) -> tuple[Compiled, Path, Baseline | None]:
        settings = dataclasses.replace(self.options.settings, **changes)
        options = dataclasses.replace(self.options, settings=settings)
        report: Callable[[str, str], None] = lambda stage, note: None  # noqa: E731
        return build_to_ship(options, FOUR, False, self.make, work, report, is_chosen)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    folder = tmp_path_factory.mktemp("builds")
    options = check_options("net", Settings(target="x86-64-v3", device="table"))
    model = net()
    canonical = normalise(trace(model, INPUTS))
    batches = ((torch.randn(4, 2, 6, 6),),)

    def build(policy: Policy, name: str) -> Compiled:
        (folder / name).mkdir()
        judges = Judges(None, None, None)
        return run_stages(
            *(options, policy, model, canonical, canonical, batches, "synthetic", None, judges),
            *(folder / name, lambda stage, note: None, None),
        )

    return Builds(options, canonical, build(FOUR, "four"), build(UNIFORM, "eight"))


def comparison(low: float, ratio: float, high: float) -> Comparison:
    latency = Latency("measured", "local", 100, median_s=1e-3)
    return Comparison(latency, latency, "time", ratio, low, high, 10, 0.01)


COUNTS = [
    Latency("emulated", "qemu:cortex-a72", 1, instructions=count, cycles=cycles, cycle_model="model X")
    for count, cycles in ((50, 120), (100, 100))
]
FEWER = Comparison(*COUNTS, "instructions", 0.5, 0.5, 0.5, rounds=1)
FASTER, SLOWER, UNSURE = (
    comparison(*interval) for interval in ((0.7, 0.8, 0.9), (1.1, 1.2, 1.3), (0.9, 0.99, 1.05))
)


@pytest.mark.parametrize(
    ("is_chosen", "found", "shipped"),
    [
        (True, FASTER, "requested"),
        (True, SLOWER, "uniform"),
        (True, UNSURE, "uniform"),
        (True, FEWER, "requested"),
        (True, None, "uniform"),
        (False, FASTER, "requested"),
        (False, SLOWER, "requested"),
        (False, UNSURE, "requested"),
    ],
)
def test_chosen_bits_ship_only_where_they_win(
    builds: Builds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_chosen: bool,
    found: Comparison | None,
    shipped: str,
) -> None:
    monkeypatch.setattr(baselines, "_compare", lambda *_: found)
    compiled, _, baseline = builds.ship(tmp_path, is_chosen)
    assert baseline is not None
    assert (baseline.shipped, baseline.is_chosen, baseline.comparison) == (shipped, is_chosen, found)
    assert compiled is (builds.eight if shipped == "uniform" else builds.four)
    assert baseline.requested.bits == {"conv": "w4a4", "linear": "w8a8"}
    assert baseline.uniform.bits == {"conv": "w8a8", "linear": "w8a8"}


def test_nothing_is_compared_that_was_not_asked_for(builds: Builds, tmp_path: Path) -> None:
    assert builds.ship(tmp_path, False, compare=False) == (builds.four, tmp_path, None)
    assert is_uniform(
        Policy(QuantSpec(4, 4), {name: QuantSpec(8, 8) for name in ("conv", "linear")}), builds.canonical
    )
    assert not is_uniform(FOUR, builds.canonical)


@pytest.mark.parametrize(
    ("baseline", "warning"),
    [
        (("requested", True, FASTER), None),
        (("requested", False, UNSURE), None),
        (("requested", False, SLOWER), "1.20 times its time); they ship because you asked for them"),
        (("requested", True, FEWER), "fewer instructions, but 1.20 times the cycles"),
        (("uniform", True, SLOWER), "uniform int8, which ships in their place"),
        (("uniform", True, None), "uniform int8, which ships in their place"),
    ],
)
def test_what_is_said(
    builds: Builds, tmp_path: Path, baseline: tuple[str, bool, Comparison | None], warning: str | None
) -> None:
    whole = builds.ship(tmp_path, False)[2]
    assert whole is not None
    shipped, is_chosen, found = baseline
    rows = baseline_rows(
        dataclasses.replace(whole, shipped=shipped, is_chosen=is_chosen, comparison=found)  # type: ignore[arg-type]
    )
    said = dict(rows)
    assert said["against int8"] == (
        found.verdict if found else "not compared: no device here and no table of the profile"
    )
    assert ("warning" in said) == (warning is not None)
    assert warning is None or warning in said["warning"]


def test_predictions_are_compared_in_their_own_words() -> None:
    times = [Latency("predicted", "table", 0, median_s=time_s) for time_s in (2e-3, 1e-3)]
    slower = compare_predictions(*times)
    assert (slower.ratio, slower.figure, slower.verdict) == (
        2.0,
        "predicted time",
        "predicted time: slower by 100.0%",
    )
    counts = [Latency("predicted", "table", 0, instructions=count) for count in (50, 100)]
    assert compare_predictions(*counts).verdict == "predicted instructions: fewer by 50.0%"


# Through `compile`


def test_given_bits_are_compared_on_the_device_and_in_the_manifest(tmp_path: Path) -> None:
    artifact = haqnas.compile(net(), INPUTS, output=tmp_path / "out", name="net", bits=FOUR)
    baseline = haqnas.load(artifact.directory).manifest.baseline
    assert baseline is not None
    assert baseline.comparison is not None
    found = baseline.comparison
    assert (found.figure, found.first.device, found.second.kind) == ("time", "local", "measured")
    assert found.low <= found.ratio <= found.high
    assert found.rounds >= 10
    assert baseline.uniform.accuracy.metric == "agreement"
    assert baseline.requested.packed_weight_bytes == artifact.manifest.sizes.packed_weight_bytes
    assert {row.emitted for row in artifact.manifest.layers if row.emitted} == {"w4a4", "w8a8"}


@pytest.mark.arm
def test_counts_are_compared_where_the_device_is_emulated(tmp_path: Path) -> None:
    artifact = haqnas.compile(
        net(), INPUTS, output=tmp_path / "out", name="net", bits=FOUR, target="cortex-a72", formats=("a",)
    )
    baseline = artifact.manifest.baseline
    assert baseline is not None
    assert baseline.comparison is not None
    assert baseline.comparison.figure == "instructions"
    assert baseline.comparison.low == baseline.comparison.high


def test_resumed_run_compares_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_net() -> haqnas.Artifact:
        return haqnas.compile(
            *(net(), INPUTS),
            output=tmp_path / "out",
            name="net",
            bits=FOUR,
            target="x86-64-v3",
            device="table",
        )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(products, "_link", stop)
        with pytest.raises(KeyboardInterrupt):
            compile_net()
    with monkeypatch.context() as patch:
        patch.setattr(baselines, "_compare", stop)
        baseline = compile_net().manifest.baseline
    assert baseline is not None
    assert baseline.comparison is not None
    assert baseline.comparison.figure == "predicted time"


def test_uniform_build_that_ships_is_a_whole_artefact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What haqnas chose loses: policy, binary and manifest are those of 8 bits."""
    record = SearchRecord("ilp", "gradient", 1.0, 0.5, 1e-6, 2e-6, "s", "made up", 1000, 2000, None, None, 0)
    monkeypatch.setattr("haqnas.compilation.choose_bits", lambda *_: Chosen(FOUR, record))
    monkeypatch.setattr(baselines, "_compare", lambda *_: SLOWER)
    artifact = haqnas.compile(
        net(), INPUTS, output=tmp_path / "out", name="net", bits="auto", formats=("exe",)
    )
    assert json.loads((artifact.directory / "policy.json").read_text())["layers"] == {}
    assert {row.emitted for row in artifact.manifest.layers if row.emitted} == {"w8a8"}
    assert artifact.manifest.baseline is not None
    assert artifact.manifest.baseline.shipped == "uniform"
    assert {check.result for check in artifact.verify()} == {"ok"}
