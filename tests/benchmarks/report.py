"""Results as text: one table per network, then the rows that the project set itself as bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import OURS

if TYPE_CHECKING:
    from tests.benchmarks.accuracies import Scored
    from tests.benchmarks.arm import Count
    from tests.benchmarks.bars import Bar, Results
    from tests.benchmarks.compare import Comparison
    from tests.benchmarks.low_bits import Gain
    from tests.benchmarks.network_model import Prediction
    from tests.benchmarks.policies import Timed
    from tests.benchmarks.roofline import Roofline
    from tests.benchmarks.tuning import Tuning

SHOWN_LAYERS = 8


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first one left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def comparison_text(result: "Comparison") -> str:
    rows = [("", "median us", "spread", "10 %", "90 %", "runs", "preempted/s", "SNR dB", "/ ours")]
    ours = result.timings[OURS]
    for name, timing in sorted(result.timings.items(), key=lambda item: item[1].median_s):
        rows.append(
            (
                name,
                f"{timing.median_s * 1e6:.1f}",
                f"{timing.spread:.1%}",
                f"{timing.p10_s * 1e6:.1f}",
                f"{timing.p90_s * 1e6:.1f}",
                f"{timing.runs}",
                f"{timing.preemptions_per_s:.0f}",
                f"{result.snr_db[name]:.1f}",
                f"{timing.median_s / ours.median_s:.2f}",
            )
        )
    threads = len(result.cores)
    lines = [f"{result.network}, {threads} thread{'s' if threads > 1 else ''}", table(rows)]
    lines += [f"{name}: not run: {reason}" for name, reason in result.unsupported.items()]
    best = result.ratio
    lines.append(
        f"best peer / ours: {best.median:.2f} ({best.low:.2f} to {best.high:.2f}), {result.best}; "
        f"{'; '.join(result.checks)}\n"
    )
    return "\n".join(lines)


def counts_text(counts: Sequence["Count"]) -> str:
    rows = [("executed instructions", "core", "ours", "LiteRT", "LiteRT / ours")]
    for count in counts:
        rows.append((count.network, count.cpu, f"{count.ours:,}", f"{count.litert:,}", f"{count.ratio:.2f}"))
    sources = sorted({count.litert_source for count in counts})
    return "\n".join((table(rows), *sources, ""))


def gains_text(gains: Sequence["Gain"]) -> str:
    rows = [("layer inside a network", "target", "w8a8", "fewer bits", "", "gain", "", "kernels")]
    for gain in gains:
        eight, fewer = (
            f"{value * 1e6:.1f} us" if gain.unit == "s" else f"{value:,.0f}"
            for value in (gain.at_w8a8, gain.at_fewer)
        )
        spread = f"{gain.ratio.low:.2f} to {gain.ratio.high:.2f}" if gain.unit == "s" else "instructions"
        rows.append(
            (
                gain.shape,
                gain.target,
                eight,
                fewer,
                gain.bits,
                f"{gain.ratio.median:.2f}",
                spread,
                " / ".join(gain.kernels),
            )
        )
    return table(rows) + "\n"


def tunings_text(tunings: Sequence["Tuning"]) -> str:
    rows = [("1 thread, us", "by rule", "tuned", "by rule / tuned", "", "other kernels", "tuned for")]
    for one in tunings:
        rows.append(
            (
                one.network,
                *(f"{time_s * 1e6:.1f}" for time_s in (one.by_rule_s, one.tuned_s)),
                f"{one.ratio.median:.2f}",
                f"{one.ratio.low:.2f} to {one.ratio.high:.2f}",
                f"{one.changed_layers} of {one.layers}",
                f"{one.tune_time_s:.0f} s",
            )
        )
    return table(rows) + "\n"


def predictions_text(predictions: Sequence["Prediction"]) -> str:
    rows = [("network, policy", "target", "predicted", "end to end", "error")]
    for one in predictions:
        amounts = (
            f"{value * 1e6:.1f} us" if one.unit == "s" else f"{value:,.0f}"
            for value in (one.predicted, one.end_to_end)
        )
        rows.append((f"{one.network} {one.policy}", one.target, *amounts, f"{one.error:+.2%}"))
    return table(rows) + "\n"


def accuracies_text(scored: Sequence["Scored"]) -> str:
    rows = [("network and bits", "top-1", "at least", "", "packed weights", "of int8", "epochs", "training")]
    for one in scored:
        bar = ("-", "") if one.at_least is None else (f"{one.at_least:.1%}", "missed" if one.missed else "ok")
        share = f"{one.size_share:.1%}" if one.size_share else "-"
        accuracy = (f"{one.found:.2%}", *bar)
        training = (f"{one.epochs:g}", f"{one.time_s:.0f} s")
        rows.append((one.name, *accuracy, f"{one.packed_weight_bytes:,}", share, *training))
    return table(rows) + "\n"


def policies_text(timed: Sequence["Timed"]) -> str:
    """How many times as fast as uniform int8 each policy is on each target."""
    rows = [("policy", "on", "int8 / policy", "packed weights")]
    for one in timed:
        figures = ", ".join(f"{ratio:.2f} ({figure})" for figure, ratio in one.speedups.items())
        rows.append((one.policy, one.target, figures, f"{one.packed_weight_bytes:,}"))
    return table(rows) + "\n"


def errors_text(predictions: Sequence["Prediction"]) -> str:
    """Mean absolute error by target."""
    from tests.benchmarks.network_model import mean_error

    rows = [("network model", "networks", "policies", "mean |error|", "greatest")]
    for target in dict.fromkeys(one.target for one in predictions):
        chosen = [one for one in predictions if one.target == target]
        greatest = max(abs(one.error) for one in chosen)
        networks = {one.network for one in chosen}
        rows.append(
            (target, f"{len(networks)}", f"{len(chosen)}", f"{mean_error(chosen):.2%}", f"{greatest:.2%}")
        )
    return table(rows) + "\n"


def roofline_text(found: "Roofline") -> str:
    """The layers that take longest, and the network as a whole."""
    rows = [("layer", "us", "of compute", "of memory", "kernel")]
    longest = sorted(found.layers, key=lambda layer: -layer.time_s)[:SHOWN_LAYERS]
    for layer in longest:
        shares = (f"{share:.0%}" for share in (layer.compute_share, layer.memory_share))
        rows.append((layer.layer, f"{layer.time_s * 1e6:.1f}", *shares, layer.kernel))
    total_s = sum(layer.time_s for layer in found.layers) + found.unnamed_s
    heading = (
        f"{found.network}: {found.share:.0%} of the roof in {total_s * 1e6:.1f} us "
        f"(of which {found.unnamed_s * 1e6:.1f} us serve no layer); the layers that take longest:"
    )
    peaks = ", ".join(f"{isa} {macs / 1e9:.0f} GMAC/s" for isa, macs in found.peaks.macs_per_s.items())
    return "\n".join(
        (
            heading,
            table(rows),
            f"one core: {peaks}, reads {found.peaks.read_bytes_per_s / 1e9:.0f} GB/s\n",
        )
    )


def summary_text(comparisons: Sequence["Comparison"]) -> str:
    """One line per network and number of threads: ours, each peer's best variant, the ratio."""
    peers = sorted({name.split()[0] for one in comparisons for name in one.timings if name != OURS})
    rows = [("milliseconds", "threads", "ours", *peers, "best peer / ours", "", "best peer")]
    for one in comparisons:
        best = {
            peer: min(
                (t.median_s for name, t in one.timings.items() if name.split()[0] == peer), default=None
            )
            for peer in peers
        }
        times = (one.timings[OURS].median_s, *best.values())
        cells = ("" if time_s is None else f"{time_s * 1e3:.4g}" for time_s in times)
        spread = f"{one.ratio.low:.2f} to {one.ratio.high:.2f}"
        rows.append((one.network, f"{len(one.cores)}", *cells, f"{one.ratio.median:.2f}", spread, one.best))
    return table(rows) + "\n"


def bars_text(found: Sequence["Bar"]) -> str:
    rows = [("bar", "wanted", "got", "", "")]
    for bar in found:
        got = "" if bar.got is None else f"{bar.got:.3g}"
        rows.append((bar.name, f"{bar.limit} {bar.wanted}", got, bar.place, bar.verdict))
    return table(rows) + "\n"


def results_text(results: "Results") -> str:
    """Everything but single layers and single peers, which were printed as they came."""
    from tests.benchmarks.bars import bars

    parts = []
    if results.comparisons:
        parts.append(summary_text(results.comparisons))
    if results.counts:
        parts.append(counts_text(results.counts))
    if results.gains:
        parts.append(gains_text(results.gains))
    if results.predictions:
        parts.append(errors_text(results.predictions))
    if results.tunings:
        parts.append(tunings_text(results.tunings))
    if results.rooflines:
        rows = [("share of the roof, 1 thread", "")]
        rows += [(one.network, f"{one.share:.0%}") for one in results.rooflines]
        parts.append(table(rows) + "\n")
    return "\n".join((*parts, bars_text(bars(results))))
