"""Gate: an artefact against a baseline, figure by figure, for CI: latency, size, accuracy, bits."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from haqnas.artifact import Artifact
from haqnas.devices.comparison import Comparison
from haqnas.devices.latency import Latency, TimingPlan
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.manifest import LayerRow

Result = Literal["ok", "regression", "not checked"]
LISTED = 5  # layers that a message names


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How much worse than the baseline is no regression."""

    latency: float = 0.02  # share
    size: float = 0.01  # share
    accuracy: float = 0.005  # absolute: 0.5 points of top-1
    may_widen: bool = False  # whether layers may have more bits

    def __post_init__(self) -> None:
        for name in ("latency", "size", "accuracy"):
            if not 0 <= getattr(self, name) < 10:
                raise ConfigurationError(
                    f"the tolerance of {name} must be a share from 0 to below 10 (2% or 0.02), but got "
                    f"{getattr(self, name):g}"
                )


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of both artefacts, and what it means."""

    name: str
    result: Result
    detail: str
    ours: float | None = None
    baseline: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings. `strict`: what could not be checked counts as a regression."""

    findings: tuple[Finding, ...]
    strict: bool

    def is_missed(self, finding: Finding) -> bool:
        """Whether this finding fails the gate."""
        return finding.result == "regression" or (self.strict and finding.result == "not checked")

    @property
    def ok(self) -> bool:
        return not any(map(self.is_missed, self.findings))


def check(
    artifact: Artifact,
    baseline: Artifact,
    tolerances: Tolerances,
    plan: TimingPlan,
    device: str | None = None,
    strict: bool = False,
) -> Verdict:
    """Compare; latency is measured anew, both turn by turn, where a device here runs both.

    Raises ConfigurationError for a `device` that cannot run both, DeviceError where one that was named fails.
    """
    checks: tuple[Callable[[], tuple[Finding, ...]], ...] = (
        lambda: (_check_latency(artifact, baseline, tolerances.latency, plan, device),),
        lambda: _check_sizes(artifact, baseline, tolerances.size),
        lambda: (_check_accuracy(artifact, baseline, tolerances.accuracy),),
        lambda: (_check_bits(artifact, baseline, tolerances.may_widen),),
    )
    return Verdict(tuple(finding for run in checks for finding in run()), strict)


# Latency ------------------------------------------------------------------------------------------------------


def _check_latency(
    artifact: Artifact, baseline: Artifact, tolerance: float, plan: TimingPlan, device: str | None
) -> Finding:
    try:
        comparison = artifact.compare(baseline, device, plan)
    except (ConfigurationError, DeviceError) as error:
        if device is not None:
            raise
        return _recorded_latency(artifact.manifest.latency, baseline.manifest.latency, tolerance, str(error))
    return _judge_comparison(comparison, tolerance)


def _judge_comparison(comparison: Comparison, tolerance: float) -> Finding:
    """Slower is a regression where the ratio is above what is tolerated, and its interval above equality."""
    is_slower = comparison.ratio > 1 + tolerance and comparison.low > 1
    interval = (
        f", {comparison.low:.3f} to {comparison.high:.3f} with 95 % confidence" if comparison.p_value else ""
    )
    kind = "measured turn by turn" if comparison.figure == "time" else f"{comparison.figure} counted"
    detail = f"{comparison.ratio:.3f} times the baseline{interval} ({kind} on {comparison.first.device})"
    return Finding(
        "latency",
        "regression" if is_slower else "ok",
        f"{detail}; tolerated: {1 + tolerance:.3f}",
        *_figures(comparison.first, comparison.second),
    )


def _recorded_latency(ours: Latency | None, theirs: Latency | None, tolerance: float, reason: str) -> Finding:
    """From the manifests: counts and predictions are exact, so they compare; times of another day do not."""
    if ours is None or theirs is None:
        return Finding("latency", "not checked", f"{reason}; and the manifests have no latency of both")
    if "measured" in {ours.kind, theirs.kind} or (ours.kind, ours.device) != (theirs.kind, theirs.device):
        return Finding(
            "latency",
            "not checked",
            f"{reason}; and the manifests' figures do not compare: {ours.kind} on {ours.device}, {theirs.kind} on "
            f"{theirs.device}",
        )
    one, other, unit = _figures(ours, theirs)
    if not one or not other:
        return Finding("latency", "not checked", f"{reason}; and the manifests have no common figure")
    ratio = one / other
    return Finding(
        "latency",
        "regression" if ratio > 1 + tolerance else "ok",
        f"{ratio:.3f} times the baseline ({ours.kind} by {ours.device}, from the manifests); tolerated: "
        f"{1 + tolerance:.3f}",
        one,
        other,
        unit,
    )


def _figures(ours: Latency, theirs: Latency) -> tuple[float | None, float | None, str]:
    if ours.median_s is not None and theirs.median_s is not None:
        return ours.median_s, theirs.median_s, "s"
    return ours.instructions, theirs.instructions, "instructions"


# Size, accuracy, bits -----------------------------------------------------------------------------------------


def _check_sizes(artifact: Artifact, baseline: Artifact, tolerance: float) -> tuple[Finding, ...]:
    ours, theirs = artifact.manifest.sizes, baseline.manifest.sizes
    pairs = {
        "executable size": (ours.executable_bytes, theirs.executable_bytes),
        "packed weights": (ours.packed_weight_bytes, theirs.packed_weight_bytes),
        "workspace": (ours.workspace_bytes, theirs.workspace_bytes),
    }
    return tuple(_check_size(name, one, other, tolerance) for name, (one, other) in pairs.items())


def _check_size(name: str, ours: int | None, theirs: int | None, tolerance: float) -> Finding:
    if ours is None or theirs is None:
        return Finding(
            name, "not checked", "not both artefacts have an executable; compile with --format exe"
        )
    is_larger = ours > theirs * (1 + tolerance)
    change = f"{(ours - theirs) / theirs:+.1%}" if theirs else f"{ours:+,}"
    return Finding(
        name,
        "regression" if is_larger else "ok",
        f"{ours:,} bytes, baseline {theirs:,} ({change}); tolerated: {tolerance:+.1%}",
        ours,
        theirs,
        "bytes",
    )


def _check_accuracy(artifact: Artifact, baseline: Artifact, tolerance: float) -> Finding:
    ours, theirs = artifact.manifest.accuracy, baseline.manifest.accuracy
    if ours is None or theirs is None:
        return Finding("accuracy", "not checked", "not both artefacts were scored")
    on = [(a.metric, a.data, a.num_samples, a.num_available) for a in (ours, theirs)]
    if on[0] != on[1]:
        told = [
            f"{metric} on {count} of {available} samples of {data}" for metric, data, count, available in on
        ]
        return Finding("accuracy", "not checked", f"scored differently: {told[0]}, baseline {told[1]}")
    drop = theirs.simulated - ours.simulated
    # a share that is exactly as tolerated is no regression, whatever its last bit
    return Finding(
        "accuracy",
        "regression" if drop > tolerance + 1e-12 else "ok",
        f"{ours.metric} {ours.simulated:.4g}, baseline {theirs.simulated:.4g} ({-drop:+.4g}) on {ours.num_samples} "
        f"samples of {ours.data}; tolerated: {-tolerance:+.4g}",
        ours.simulated,
        theirs.simulated,
    )


def _check_bits(artifact: Artifact, baseline: Artifact, may_widen: bool) -> Finding:
    """Each layer has the bits that were asked for, and no more than in the baseline."""
    ours = {row.name: row for row in artifact.manifest.layers}
    theirs = {row.name: row for row in baseline.manifest.layers}
    broken = [
        f"{row.name} was asked for {row.requested}, but has {row.emitted or 'float'}"
        for row in ours.values()
        if row.requested is not None and row.requested != row.emitted
    ]
    wider = [] if may_widen else [_widened(ours[name], theirs[name]) for name in ours if name in theirs]
    wrong = [*broken, *(text for text in wider if text)]
    lost = sorted(theirs.keys() - ours.keys())
    others = (
        f"; not in both: {_list([*lost, *sorted(ours.keys() - theirs.keys())])}"
        if ours.keys() != theirs.keys()
        else ""
    )
    common = len(ours.keys() & theirs.keys())
    if wrong:
        return Finding("bits", "regression", f"{_list(wrong, '; ')}{others}")
    if not common:
        return Finding("bits", "not checked", f"the artefacts have no layer in common{others}")
    return Finding(
        "bits", "ok", f"{common} layers as asked for{'' if may_widen else ', none wider than before'}{others}"
    )


def _widened(ours: LayerRow, theirs: LayerRow) -> str | None:
    one, other = _bits(ours.emitted), _bits(theirs.emitted)
    if other is None or (one is not None and all(a <= b for a, b in zip(one, other, strict=True))):
        return None
    return f"{ours.name} has {ours.emitted or 'float'}, before {theirs.emitted}"


def _bits(emitted: str | None) -> tuple[int, ...] | None:
    return None if emitted is None else tuple(map(int, re.findall(r"\d+", emitted)))


def _list(texts: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return separator.join(texts[:LISTED]) + more


def to_document(verdict: Verdict) -> Mapping[str, object]:
    """For JSON."""
    return {
        "ok": verdict.ok,
        "strict": verdict.strict,
        "findings": [
            {
                "name": finding.name,
                "result": finding.result,
                "detail": finding.detail,
                **({} if finding.ours is None else {"ours": finding.ours, "baseline": finding.baseline}),
                **({"unit": finding.unit} if finding.unit else {}),
            }
            for finding in verdict.findings
        ],
    }
