"""A report as one HTML page: figures that answer to the mouse, tables, and no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from haqnas.inspection import Inspection, LayerTimes
from haqnas.manifest import LayerRow, Manifest
from haqnas.report.figures import Figure, bits_figure, builds_figure, prediction_figure, times_figure
from haqnas.report.search_figures import credit_figure, progress_figure, recipes_figure, tradeoff_figure
from haqnas.report.trials import TrialRow

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Report:
    """What is reported of an artefact: its summary in words, its layers, and the trials of its search."""

    manifest: Manifest
    summary: Rows
    inspection: Inspection
    trials: Sequence[TrialRow] = ()

    @property
    def of_bits(self) -> Sequence[TrialRow]:
        """The trials of networks and bits, without training."""
        return [trial for trial in self.trials if not trial.is_of_recipe]

    @property
    def of_recipe(self) -> Sequence[TrialRow]:
        """The trials that led to the recipe; an earlier search may have had other networks to choose from."""
        record = self.manifest.recipe
        study = None if record is None else record.study
        return [trial for trial in self.trials if trial.is_of_recipe and trial.study == study]


def render_page(report: Report) -> str:
    """The HTML text."""
    manifest, inspection = report.manifest, report.inspection
    unit = manifest.search.unit if manifest.search is not None else "s"
    found = (
        builds_figure(manifest.baseline),
        tradeoff_figure(report.of_bits, unit),
        progress_figure(report.of_bits),
        recipes_figure(report.of_recipe, manifest.recipe),
        credit_figure(manifest.search, manifest.recipe),
        bits_figure(inspection.rows),
        times_figure(inspection.rows, inspection.times),
        prediction_figure(manifest),
    )
    figures = [figure for figure in found if figure is not None]
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = files("haqnas.report").joinpath("page.html").read_text(encoding="utf-8")
    return template.from_string(text).render(
        title=f"{manifest.name} on {manifest.profile.name}",
        summary=report.summary,
        figures=figures,
        layers=[_layer_cells(row, inspection.times, index) for index, row in enumerate(inspection.rows)],
        environment=_environment(manifest),
        plotly=Markup(get_plotlyjs()),
        data=_as_script(figures, report),
    )


def _layer_cells(row: LayerRow, times: LayerTimes | None, index: int) -> Mapping[str, str]:
    """What is known of a layer, by the heading of its column."""
    amount = times.amounts[index] if times is not None else None
    is_time = times is not None and times.unit == "s"
    return {
        "layer": row.name,
        "kind": row.kind,
        "requested": row.requested or "-",
        "simulated": row.simulated or "-",
        "in the binary": row.emitted or "-",
        "weights": f"{row.num_weights:,}",
        "packed bytes": f"{row.packed_bytes:,}",
        "time": "-"
        if amount is None
        else f"{amount * 1e6:.1f} us"
        if is_time
        else f"{amount:,.0f} instructions",
        "kernel": row.kernel,
        "differences": "; ".join(row.differences) or "none",
    }


def _environment(manifest: Manifest) -> Rows:
    machine = manifest.latency.fingerprint if manifest.latency is not None else None
    facts = machine.to_document() if machine is not None else {}
    return [
        ("target", f"{manifest.profile.name}: {manifest.profile.description}"),
        ("seed", str(manifest.seed)),
        ("threads", str(manifest.threads)),
        ("request", manifest.request_sha256),
        *((name, version) for name, version in sorted(manifest.versions.items())),
        *((f"machine: {name}", str(value)) for name, value in facts.items()),
    ]


def _as_script(figures: Sequence[Figure], report: Report) -> Markup:
    """JSON that no text in it can end or leave: `<` is written as an escape."""
    rows, times = report.inspection.rows, report.inspection.times
    document = {
        "figures": [
            {"name": figure.name, "traces": figure.traces, "layout": figure.layout} for figure in figures
        ],
        "layers": {row.name: _layer_cells(row, times, index) for index, row in enumerate(rows)},
        "trials": list(map(_trial_cells, report.of_bits)),
        "recipes": {str(trial.number): _trial_cells(trial) for trial in report.of_recipe},
    }
    text = json.dumps(document, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _trial_cells(trial: TrialRow) -> Mapping[str, str]:
    return {
        "trial": f"{trial.number} ({trial.strategy}, {trial.fidelity})",
        "score": "failed" if trial.score is None else f"{trial.score:.4g}",
        "why": trial.reason,
        **trial.choices,
    }
