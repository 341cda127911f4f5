"""Results as text: one table per network, then the rows that the project set itself as bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import OURS

if TYPE_CHECKING:
    from tests.benchmarks.arm import Count
    from tests.benchmarks.compare import Comparison
    from tests.benchmarks.low_bits import Gain


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
    rows = [("", "median us", "spread", "10 %", "90 %", "runs", "SNR dB", "/ ours")]
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
                f"{result.snr_db[name]:.1f}",
                f"{timing.median_s / ours.median_s:.2f}",
            )
        )
    threads = len(result.cores)
    note = "" if result.our_threads == threads else "; ours has no thread pool and ran on one"
    lines = [f"{result.network}, {threads} thread{'s' if threads > 1 else ''}{note}", table(rows)]
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
