"""What commands print on stdout: tables for people, one object for programs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from haqnas.cli.recipes import STOPS, recipe_rows

if TYPE_CHECKING:
    from haqnas.api import Profiled
    from haqnas.artifact import Artifact
    from haqnas.devices.comparison import Comparison
    from haqnas.devices.fingerprint import Fingerprint
    from haqnas.devices.latency import Latency
    from haqnas.evaluate import Accuracy
    from haqnas.hardware import HardwareProfile
    from haqnas.manifest import Baseline, LayerRow, Manifest
    from haqnas.space.outcome import Constraint, SearchRecord

MODEL_ERROR = 0.1  # of sums of kernels against whole runs, above which a profile warns
PLAIN_WIDTH = 160  # columns where stdout is no terminal: tables go to files and pipes unbroken


def print_json(document: Mapping[str, Any]) -> None:
    """Exactly one JSON object."""
    print(json.dumps({"ok": True, **document}))


def print_lines(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, aligned."""
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print(f"{name:<{width}}  {value}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table; `right` names the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    console.print(table)


def describe_latency(latency: "Latency | None") -> str:
    """One line that says what the figure is."""
    if latency is None:
        return "not measured"
    if latency.kind == "predicted":
        unit = (
            f"{latency.instructions:,} instructions"
            if latency.median_s is None
            else seconds(latency.median_s)
        )
        return "; ".join((f"{unit} (predicted by the {latency.device})", *latency.warnings))
    if latency.median_s is not None:
        spread = f", spread {latency.spread:.0%}" if latency.spread is not None else ""
        return f"{seconds(latency.median_s)} median of {latency.count:,} ({latency.kind} on {latency.device}{spread})"
    cycles = f", {latency.cycles:,} cycles as modelled" if latency.cycles is not None else ""
    return (
        f"{latency.instructions:,} instructions{cycles} ({latency.kind} on {latency.device}; no time: it would be the "
        "emulator's)"
    )


def latency_rows(latency: "Latency") -> list[tuple[str, str]]:
    """All that a measurement says, one line each."""
    rows = [("latency", describe_latency(latency))]
    if latency.low_s is not None and latency.high_s is not None:
        rows.append(
            (
                "interval",
                f"{seconds(latency.low_s)} to {seconds(latency.high_s)} with 95 % confidence",
            )
        )
    if latency.min_s is not None and latency.p90_s is not None:
        tail = f", p95 {seconds(latency.p95_s)}" if latency.p95_s is not None else ""
        rows.append(
            (
                "runs",
                f"least {seconds(latency.min_s)}, p90 {seconds(latency.p90_s)}{tail}, {latency.outliers} far out",
            )
        )
    if latency.steady_after_s is not None:
        rows.append(
            ("steady state", f"after {latency.steady_after_s:.1f} s; the figures are of what came then")
        )
    if latency.fingerprint is not None and latency.kind == "measured":
        rows.append(("machine", _describe_machine(latency.fingerprint)))
    if latency.caches is not None:
        rows.append(("caches", _CACHES[latency.caches]))
    if latency.cycle_model is not None:
        rows.append(("cycle model", f"{latency.cycle_model}; without misses of caches and of branches"))
    return [*rows, *(("warning", warning) for warning in latency.warnings)]


_CACHES = {
    "warm": "warm: runs follow each other, as in a deployment that runs without pause",
    "cold": "cold: evicted before each run, as in a deployment that wakes now and then",
}


def _describe_machine(machine: "Fingerprint") -> str:
    """What is known of it and bears on times."""
    pinned = ", ".join(map(str, machine.affinity or ()))
    facts = (
        machine.cpu,
        machine.board,
        f"core {pinned}" if pinned else None,
        f"{machine.frequency_hz / 1e9:.2f} GHz" if machine.frequency_hz else None,
        f"governor {machine.governor}" if machine.governor else None,
        f"{machine.temperature_c:.0f} C" if machine.temperature_c is not None else None,
    )
    return ", ".join(fact for fact in facts if fact) or "unknown"


def comparison_rows(comparison: "Comparison", names: tuple[str, str]) -> list[tuple[str, str]]:
    """Both artefacts and the verdict about the first."""
    rows = [
        (name, describe_latency(latency))
        for name, latency in zip(names, (comparison.first, comparison.second), strict=True)
    ]
    if comparison.p_value is not None:
        interval = f"{comparison.low:.3f} to {comparison.high:.3f} with 95 % confidence"
        sure = f"{interval}, p = {comparison.p_value:.2g}, {comparison.rounds} rounds"
        rows.append(("ratio", f"{comparison.ratio:.3f} ({sure})"))
    warnings = dict.fromkeys((*comparison.first.warnings, *comparison.second.warnings))
    return [*rows, ("verdict", comparison.verdict), *(("warning", warning) for warning in warnings)]


def seconds(value_s: float) -> str:
    """With a unit that fits."""
    if value_s >= 1e-3:
        return f"{value_s * 1e3:.3f} ms"
    return f"{value_s * 1e6:.1f} us" if value_s >= 1e-5 else f"{value_s * 1e6:.3f} us"


def describe_accuracy(accuracy: "Accuracy | None") -> str:
    """One line that says what was scored on what."""
    if accuracy is None:
        return "not scored"
    is_part = accuracy.num_samples < accuracy.num_available
    counted = f"{accuracy.num_samples} of {accuracy.num_available}" if is_part else f"{accuracy.num_samples}"
    on = f"{counted} samples of {accuracy.data}"
    if accuracy.float_model is None:
        return f"{accuracy.simulated:.2%} agreement with the float model on {on} (no val_data was given)"
    if accuracy.metric == "top-1":
        return f"top-1 float {accuracy.float_model:.2%}, integer {accuracy.simulated:.2%} on {on}"
    return f"{accuracy.metric} float {accuracy.float_model:.4g}, integer {accuracy.simulated:.4g} on {on}"


def baseline_rows(baseline: "Baseline | None") -> list[tuple[str, str]]:
    """How the requested bits stand against uniform int8, and what follows from it."""
    if baseline is None:
        return []
    comparison, uniform = baseline.comparison, baseline.uniform
    verdict = comparison.verdict if comparison else "not compared: no device here and no table of the profile"
    facts = (
        *([describe_latency(comparison.second)] if comparison else []),
        describe_accuracy(uniform.accuracy),
        f"{uniform.packed_weight_bytes:,} of packed weights",
    )
    rows = [("against int8", verdict), ("int8", "; ".join(facts))]
    if baseline.shipped == "uniform":
        text = "the bits that were chosen do not win against uniform int8, which ships in their place"
        return [*rows, ("warning", f"{text}; policy.json says so too")]
    if comparison is not None and comparison.low > 1.0:
        text = f"these bits are not faster than uniform int8 ({comparison.ratio:.2f} times its {comparison.figure})"
        return [*rows, ("warning", f"{text}; they ship because you asked for them or their size")]
    if comparison is not None and (comparison.cycles_ratio or 0.0) > 1.0:
        text = (
            "by the model of this core these bits take fewer instructions, but "
            f"{comparison.cycles_ratio:.2f} times the cycles of uniform int8"
        )
        return [
            *rows,
            ("warning", f"{text}; let a board decide before you ship them: --device ssh://user@host"),
        ]
    return rows


def difference_rows(layers: "Sequence[LayerRow]") -> list[tuple[str, str]]:
    """One line on what the binary does otherwise than the bits suggest; `inspect` has it layer by layer."""
    names = [row.name for row in layers if row.differences]
    if not names:
        return []
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [("differences", f"in {len(names)} layers ({listed}) bits are not what runs: see haqnas inspect")]


def _baseline_document(baseline: "Baseline | None") -> dict[str, Any] | None:
    if baseline is None:
        return None
    comparison = baseline.comparison.to_document() if baseline.comparison else None
    return {**asdict(baseline), "comparison": comparison}


def search_rows(manifest: "Manifest") -> list[tuple[str, str]]:
    """How the bits were chosen, and the budgets."""
    rows = []
    if (search := manifest.search) is not None:
        counted = Counter(row.requested for row in manifest.layers if row.requested is not None)
        bits = ", ".join(f"{count} x {spec}" for spec, count in sorted(counted.items(), reverse=True))
        share = search.predicted_latency / search.int8_latency
        latency = _amount(search.predicted_latency, search.unit)
        drop = "" if search.drop is None else f", drop {search.drop:.2%} ({search.judged_on})"
        loss = f"loss {search.predicted_loss:.2g} nats a sample, int8 {search.int8_loss:.2g}{drop}"
        rows = [
            ("bits", f"{bits} (by {search.strategy})"),
            *(
                [
                    (
                        "architecture",
                        _describe_architecture({**manifest.architecture, **(manifest.operators or {})}),
                    )
                ]
                if manifest.architecture
                else []
            ),
            *_trial_rows(search),
            ("predicted", f"{latency}, {share:.1%} of uniform int8 ({search.latency_source}); {loss}"),
        ]
    return rows + [("budget", _describe_constraint(constraint)) for constraint in manifest.constraints]


def _describe_architecture(choices: "Mapping[str, int | str]") -> str:
    """What is chosen, by kind."""
    kinds: dict[str, list[str]] = {}
    for name, choice in choices.items():
        kind, _, place = name.partition(":")
        kinds.setdefault(kind, []).append(f"{place} {choice}")
    return "; ".join(f"{kind}: {', '.join(places)}" for kind, places in kinds.items())


def _trial_rows(search: "SearchRecord") -> list[tuple[str, str]]:
    """How the search went, and what each agent's choices add to the score."""
    if search.num_trials is None:
        return []
    failed = f", {search.num_failed} of them failed" if search.num_failed else ""
    count = f"{search.num_policies} of {search.num_trials}{failed}{STOPS[search.stopped or 'trials']}"
    credit = ", ".join(f"{agent} {value:+.2g}" for agent, value in search.credit.items())
    return [("trials", f"{count} (seed {search.seed}, {search.fidelity})"), ("credit", credit)]


def print_compared(search: "SearchRecord | None") -> None:
    """What several strategies found at equal trials; nothing where one searched."""
    if search is None or not search.compared:
        return
    rows = []
    for row in search.compared:
        found = ("nothing", "", "", "")
        if row.drop is not None and row.predicted_latency is not None:
            found = (
                f"{row.drop:.2%}",
                _amount(row.predicted_latency, search.unit),
                f"{row.predicted_latency / search.int8_latency:.1%}",
                f"{row.packed_weight_bytes:,}",
            )
        rows.append((row.strategy, *found, str(row.num_policies), str(row.num_failed), f"{row.time_s:.1f}"))
    print()
    header = ("strategy", "drop", "latency", "of int8", "bytes of weights", "evaluations", "failed", "s")
    print_table(header, rows, right=header[1:])


def _describe_constraint(constraint: "Constraint") -> str:
    found, limit = (_amount(value, constraint.unit) for value in (constraint.found, constraint.limit))
    verdict = "met" if constraint.is_met else "MISSED"
    return (
        f"{constraint.name} {constraint.requested}: {found} of at most {limit} ({constraint.kind}): {verdict}"
    )


def _amount(value: float, unit: str) -> str:
    if unit == "s":
        return seconds(value)
    return f"{value:.2%}" if unit in {"of accuracy", "of uniform int8"} else f"{value:,.0f} {unit}"


def summarise(artifact: "Artifact") -> list[tuple[str, str]]:
    """What `compile` and `inspect` say about an artefact."""
    manifest, sizes = artifact.manifest, artifact.manifest.sizes
    size = f"{sizes.executable_bytes:,} bytes, " if sizes.executable_bytes is not None else ""
    return [
        ("artefact", str(artifact.directory)),
        ("target", f"{manifest.profile.name} ({manifest.profile.description})"),
        ("accuracy", describe_accuracy(manifest.accuracy)),
        ("latency", describe_latency(manifest.latency)),
        (
            "size",
            f"{size}of it {sizes.packed_weight_bytes:,} of packed weights; {sizes.workspace_bytes:,} of workspace",
        ),
        ("exact", "all integer: bit for bit on every machine" if manifest.is_exact else "has float islands"),
        *search_rows(manifest),
        *recipe_rows(manifest.recipe),
        *baseline_rows(manifest.baseline),
        *difference_rows(manifest.layers),
    ]


def summary_document(artifact: "Artifact") -> dict[str, Any]:
    """The same for programs."""
    from dataclasses import asdict

    manifest = artifact.manifest
    return {
        "artifact": str(artifact.directory),
        "name": manifest.name,
        "target": manifest.profile.name,
        "accuracy": asdict(manifest.accuracy) if manifest.accuracy else None,
        "latency": manifest.latency.to_document() if manifest.latency else None,
        "sizes": asdict(manifest.sizes),
        "is_exact": manifest.is_exact,
        "baseline": _baseline_document(manifest.baseline),
        "differences": {row.name: list(row.differences) for row in manifest.layers if row.differences},
        "formats": list(manifest.formats),
        "search": asdict(manifest.search) if manifest.search else None,
        "recipe": asdict(manifest.recipe) if manifest.recipe else None,
        "constraints": [asdict(constraint) for constraint in manifest.constraints],
    }


def summarise_profile(made: "Profiled") -> list[tuple[str, str]]:
    """What a profile found, name by name."""
    table, found = made.table, made.survey
    made_of, model = table.provenance, table.model
    per_call = (
        f"{model.per_call * 1e9:.0f} ns" if made_of.unit == "ns" else f"{model.per_call:.0f} instructions"
    )
    warning = (
        ""
        if model.error <= MODEL_ERROR
        else "; above 10 %: sums of kernels do not tell this device's latency"
    )
    fitted = f"mean error {model.error:.1%} over {model.num_programs} programs"
    return [
        ("profile", str(made.path)),
        (
            "kernels",
            f"{len(table.kernels):,} ({found.measured.num_new:,} new, {made_of.kind} on {made_of.device})",
        ),
        ("worth choosing", ", ".join(map(str, made.legal))),
        *((("replaced", made.replaced),) if made.replaced else ()),
        *(("refused", f"{spec}: {reason}") for spec, reason in table.refused.items()),
        *(("exported", str(path)) for path in made.exported),
        ("network model", f"{model.scale:.3f} x kernels + {per_call} a call; {fitted}{warning}"),
    ]


def profile_document(made: "Profiled") -> dict[str, Any]:
    """The same for programs."""
    table, found = made.table, made.survey
    return {
        "profile": str(made.path),
        "kernels": len(table.kernels),
        "new_kernels": found.measured.num_new,
        "provenance": asdict(table.provenance),
        "legal": [str(spec) for spec in made.legal],
        "replaced": made.replaced,
        "refused": dict(table.refused),
        "model": asdict(table.model),
        "exported": list(map(str, made.exported)),
    }


def profile_rows(profile: "HardwareProfile") -> list[tuple[str, str]]:
    """Every field of a profile."""
    emulator, machine = profile.emulator, profile.machine
    facts = {name: getattr(machine, name) for name in machine.__dataclass_fields__}
    return [
        ("name", profile.name),
        ("description", profile.description),
        ("triple", profile.triple),
        ("cpu", profile.cpu),
        ("features", " ".join(profile.features) or "none beyond the cpu's"),
        ("bits worth choosing", ", ".join(profile.bits) or "not profiled"),
        ("kernels for", ", ".join((*profile.isas, "portable"))),
        ("checked at start", ", ".join(profile.cpu_features) or "nothing"),
        ("emulator", f"{emulator.program} -cpu {emulator.cpu}" if emulator else "none"),
        *((name, f"{value:,}") for name, value in facts.items() if value is not None),
    ]
