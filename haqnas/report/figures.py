"""The figures of a report, as Plotly reads them: mappings that become JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haqnas.devices.latency import Latency
from haqnas.inspection import LayerTimes
from haqnas.manifest import Baseline, Build, LayerRow, Manifest
from haqnas.quantspec import QuantSpec

WEIGHTS, ACTIVATIONS, TIMES, GREY = "#1f77b4", "#ff7f0e", "#2ca02c", "#888888"

Trace = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: `name` is its id in the page, `caption` says what it shows and where the figures come from."""

    name: str
    title: str
    caption: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any]


def bits_figure(rows: Sequence[LayerRow]) -> Figure | None:
    """Bits of weights and activations, layer by layer, as the integer graph and so the binary has them."""
    held = [(row, QuantSpec.parse(row.simulated)) for row in rows if row.simulated is not None]
    if not held:
        return None
    names = [row.name for row, _ in held]
    texts = [f"{row.num_weights:,} weights, {row.packed_bytes:,} bytes, {row.kernel}" for row, _ in held]

    def bars(name: str, bits: list[int], colour: str) -> Trace:
        marker = {"color": colour}
        return {"type": "bar", "name": name, "x": names, "y": bits, "hovertext": texts, "marker": marker}

    return Figure(
        "bits",
        "Bits of each layer",
        "As the integer graph has them, and the binary, which is read back. Click a layer for all that is known of it.",
        (
            bars("weights", [spec.weight_bits for _, spec in held], WEIGHTS),
            bars("activations", [spec.act_bits for _, spec in held], ACTIVATIONS),
        ),
        {"barmode": "group", "yaxis": {"title": {"text": "bits"}, "dtick": 2}},
    )


def times_figure(rows: Sequence[LayerRow], times: LayerTimes | None) -> Figure | None:
    """What each layer takes."""
    if times is None:
        return None
    known = [(row, amount) for row, amount in zip(rows, times.amounts, strict=True) if amount is not None]
    if not known:
        return None
    scale, unit = (1e6, "us") if times.unit == "s" else (1.0, "instructions")
    bars = {
        "type": "bar",
        "x": [row.name for row, _ in known],
        "y": [amount * scale for _, amount in known],
        "hovertext": [f"{row.macs:,} multiply-accumulates, {row.kernel}" for row, _ in known],
        "marker": {"color": TIMES},
    }
    caption = f"{times.kind.capitalize()}: {times.source}."
    return Figure("times", "Time of each layer", caption, (bars,), {"yaxis": {"title": {"text": unit}}})


def builds_figure(baseline: Baseline | None) -> Figure | None:
    """The requested bits beside uniform int8: accuracy against latency."""
    if baseline is None or baseline.comparison is None:
        return None
    comparison = baseline.comparison
    pairs = ((baseline.requested, comparison.first), (baseline.uniform, comparison.second))
    found = [(build, *_amount_of(latency)) for build, latency in pairs]
    if any(amount is None for _, amount, _ in found):
        return None
    unit = found[0][2]
    names = ("these bits", "uniform int8")
    points = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [amount for _, amount, _ in found],
        "y": [build.accuracy.simulated for build, _, _ in found],
        "text": [
            f"{name} (ships)" if name.endswith("int8") == (baseline.shipped == "uniform") else name
            for name in names
        ],
        "hovertext": [_build_text(build) for build, _, _ in found],
        "textposition": ["top center", "bottom center"],
        "marker": {"size": 12, "color": [WEIGHTS, GREY]},
    }
    scores = [build.accuracy.simulated for build, _, _ in found]
    margin = max(max(scores) - min(scores), 0.01 * max(map(abs, scores)))
    metric = baseline.requested.accuracy.metric
    layout = {
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "yaxis": {
            "title": {"text": metric},
            "range": [min(scores) - margin, max(scores) + margin],
            "tickformat": "" if metric == "evaluate" else ".1%",
        },
    }
    caption = f"{comparison.verdict[0].upper()}{comparison.verdict[1:]}, on {comparison.first.device}."
    return Figure("builds", "Against uniform int8", caption, (points,), layout)


def _build_text(build: Build) -> str:
    return f"{build.packed_weight_bytes:,} bytes of packed weights"


def _amount_of(latency: Latency) -> tuple[float | None, str]:
    if latency.median_s is not None:
        return latency.median_s * 1e6, "us"
    return latency.instructions, "instructions"


def prediction_figure(manifest: Manifest) -> Figure | None:
    """What the search predicted, beside what was found."""
    search, baseline = manifest.search, manifest.baseline
    if search is None or baseline is None or baseline.comparison is None:
        return None
    comparison = baseline.comparison
    if comparison.first.kind == "predicted":
        return None
    found = [_amount_of(latency)[0] for latency in (comparison.first, comparison.second)]
    scale, unit = (1e6, "us") if search.unit == "s" else (1.0, "instructions")
    if unit != _amount_of(comparison.first)[1] or None in found:
        return None
    predicted = [search.predicted_latency * scale, search.int8_latency * scale]
    most = max(*predicted, *(amount for amount in found if amount is not None)) * 1.1
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, most],
        "y": [0, most],
        "line": {"dash": "dot", "color": GREY},
    }
    points = {
        "type": "scatter",
        "mode": "markers+text",
        "x": predicted,
        "y": found,
        "text": ["these bits", "uniform int8"],
        "textposition": "bottom right",
        "marker": {"size": 12, "color": [WEIGHTS, GREY]},
    }
    layout = {
        "xaxis": {"title": {"text": f"predicted, {unit}"}},
        "yaxis": {"title": {"text": f"{comparison.first.kind}, {unit}"}},
        "showlegend": False,
    }
    return Figure(
        "prediction",
        "Predicted and found latency",
        f"Times of kernels: {search.latency_source}. On the dotted line both are equal.",
        (line, points),
        layout,
    )
