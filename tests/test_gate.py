"""The gate of CI: each figure against a baseline, what is tolerated, what could not be checked, and the reports."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import haqnas
from haqnas.artifact import Artifact
from haqnas.devices.comparison import Comparison
from haqnas.devices.latency import Latency, TimingPlan
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.evaluate import Accuracy
from haqnas.gate import Finding, Tolerances, Verdict, check
from haqnas.gate_report import to_junit, to_markdown
from haqnas.manifest import Manifest
from tests.passes.networks import images, small

PLAN = TimingPlan(runs=10)
Change = Callable[[Manifest], Manifest]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("baseline")
    return haqnas.compile(small(), (images(1, 1, 6, 6),), output=folder, bits="w4a8", compare=False)


def latency(kind: str, **figures: float) -> Latency:
    return Latency(kind=kind, device="qemu:any", count=1, **figures)


def changed(artifact: Artifact, change: Change) -> Artifact:
    return replace(artifact, manifest=change(artifact.manifest))


def without_device(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*_: object) -> Comparison:
        raise DeviceError("nothing here can run the target")

    monkeypatch.setattr(Artifact, "compare", compare)


def finding(verdict: Verdict, name: str) -> Finding:
    return next(each for each in verdict.findings if each.name == name)


def judge(ours: Artifact, theirs: Artifact, **options: object) -> Verdict:
    return check(ours, theirs, Tolerances(**options), PLAN)  # type: ignore[arg-type]


def test_an_artefact_holds_its_own_baseline(baseline: Artifact) -> None:
    verdict = check(baseline, baseline, Tolerances(latency=1.0), PLAN)
    assert verdict.ok
    assert [each.result for each in verdict.findings] == ["ok"] * 6
    assert "measured turn by turn" in finding(verdict, "latency").detail


@pytest.mark.parametrize(
    ("ratio", "low", "result"),
    [(0.9, 0.85, "ok"), (1.015, 1.01, "ok"), (1.05, 1.02, "regression"), (1.05, 0.95, "ok")],
    ids=["faster", "tolerated", "slower", "unsure"],
)
def test_slower_is_a_regression_where_the_interval_shows_it(
    ratio: float, low: float, result: str, baseline: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = (latency("measured", median_s=ratio * 1e-3), latency("measured", median_s=1e-3))
    comparison = Comparison(*times, "time", ratio, low, ratio + 0.05, 12, 0.01)
    monkeypatch.setattr(Artifact, "compare", lambda *_: comparison)
    found = finding(judge(baseline, baseline), "latency")
    assert (found.result, found.ours, found.baseline, found.unit) == (result, ratio * 1e-3, 1e-3, "s")


@pytest.mark.parametrize(
    ("ours", "theirs", "result", "words"),
    [
        (latency("emulated", instructions=105), latency("emulated", instructions=100), "regression", "1.050"),
        (
            latency("emulated", instructions=101),
            latency("emulated", instructions=100),
            "ok",
            "from the manifests",
        ),
        (latency("predicted", median_s=2.0), latency("predicted", median_s=1.0), "regression", "2.000"),
        (
            latency("measured", median_s=1.0),
            latency("measured", median_s=1.0),
            "not checked",
            "do not compare",
        ),
        (
            latency("emulated", instructions=1),
            latency("predicted", median_s=1.0),
            "not checked",
            "do not compare",
        ),
        (None, latency("predicted", median_s=1.0), "not checked", "no latency of both"),
    ],
)
def test_without_a_device_only_figures_that_repeat_are_compared(
    ours: Latency | None,
    theirs: Latency,
    result: str,
    words: str,
    baseline: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_device(baseline, monkeypatch)
    one = changed(baseline, lambda manifest: replace(manifest, latency=ours))
    other = changed(baseline, lambda manifest: replace(manifest, latency=theirs))
    found = finding(judge(one, other), "latency")
    assert found.result == result
    assert words in found.detail


def test_a_named_device_that_fails_is_an_error(baseline: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    without_device(baseline, monkeypatch)
    with pytest.raises(DeviceError):
        check(baseline, baseline, Tolerances(), PLAN, device="local")


def with_accuracy(score: float, num_samples: int = 100) -> Change:
    accuracy = Accuracy("top-1", 0.95, score, num_samples, 100, "val_data")
    return lambda manifest: replace(manifest, accuracy=accuracy)


def with_bits(bits: str | None) -> Change:
    def change(manifest: Manifest) -> Manifest:
        first, *others = manifest.layers
        return replace(manifest, layers=(replace(first, requested=bits or "w4a8", emitted=bits), *others))

    return change


def with_size(growth: float) -> Change:
    def change(manifest: Manifest) -> Manifest:
        size = manifest.sizes.executable_bytes or 0
        return replace(manifest, sizes=replace(manifest.sizes, executable_bytes=round(size * (1 + growth))))

    return change


@pytest.mark.parametrize(
    ("figure", "ours", "theirs", "options", "result", "words"),
    [
        ("accuracy", with_accuracy(0.90), with_accuracy(0.91), {}, "regression", "-0.01"),
        ("accuracy", with_accuracy(0.90), with_accuracy(0.91), {"accuracy": 0.01}, "ok", "0.9"),
        ("accuracy", with_accuracy(0.92), with_accuracy(0.91), {}, "ok", "+0.01"),
        ("accuracy", with_accuracy(0.9, 50), with_accuracy(0.9), {}, "not checked", "50 of 100"),
        ("bits", with_bits("w8a8"), with_bits("w4a8"), {}, "regression", "stem.0 has w8a8, before w4a8"),
        ("bits", with_bits("w8a8"), with_bits("w4a8"), {"may_widen": True}, "ok", "as asked for"),
        ("bits", with_bits("w2a8"), with_bits("w4a8"), {}, "ok", "none wider"),
        ("bits", with_bits(None), with_bits("w4a8"), {}, "regression", "asked for w4a8, but has float"),
        ("executable size", with_size(0.02), with_size(0), {}, "regression", "+2.0%"),
        ("executable size", with_size(0.02), with_size(0), {"size": 0.05}, "ok", "+5.0%"),
        ("executable size", with_size(-0.5), with_size(0), {}, "ok", "-50.0%"),
    ],
)
def test_each_figure_has_its_tolerance(
    figure: str,
    ours: Change,
    theirs: Change,
    options: dict,
    result: str,
    words: str,
    baseline: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_device(baseline, monkeypatch)
    found = finding(judge(changed(baseline, ours), changed(baseline, theirs), **options), figure)
    assert found.result == result
    assert words in found.detail


def test_strict_fails_on_what_was_not_checked() -> None:
    findings = (Finding("latency", "not checked", "no device"),)
    assert Verdict(findings, strict=False).ok
    assert not Verdict(findings, strict=True).ok


@pytest.mark.parametrize("options", [{"latency": -0.1}, {"size": 10.0}, {"accuracy": float("nan")}])
def test_wrong_tolerances_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"share from 0.*2%"):
        Tolerances(**options)  # type: ignore[arg-type]


VERDICT = Verdict(
    (
        Finding("latency", "not checked", "no <device> | here\x00"),
        Finding("size", "regression", "more & more"),
        Finding("bits", "ok", "as asked for"),
    ),
    strict=False,
)


def test_junit_counts_failures_and_skips() -> None:
    (suite,) = ElementTree.fromstring(to_junit(VERDICT, "build/net")).iter("testsuite")
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {"latency": ["skipped"], "size": ["failure"], "bits": ["system-out"]}
    strict = Verdict(VERDICT.findings, strict=True)
    (suite,) = ElementTree.fromstring(to_junit(strict, "build/net")).iter("testsuite")
    assert (suite.get("failures"), suite.get("skipped")) == ("2", "0")


def test_markdown_is_one_table(tmp_path: Path) -> None:
    lines = to_markdown(VERDICT, ("new", "old")).splitlines()
    assert lines[0] == "### haqnas check: failed"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 3
    assert all(line.replace("\\|", "").count("|") == 4 for line in table)
    assert "**regression**" in table[3]
