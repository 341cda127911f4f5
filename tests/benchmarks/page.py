"""The tables of docs/performance.md, in Markdown, from the results of `make bench`.

python -m tests.benchmarks.page build/bench/results.json
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS = "haqnas int8"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _microseconds(time_s: float | None) -> str:
    return "" if time_s is None else f"{time_s * 1e6:,.0f}" if time_s >= 1e-3 else f"{time_s * 1e6:.4g}"


def peers_table(comparisons: Sequence[dict[str, Any]]) -> str:
    """One line a network: ours, each library's fastest variant, the ratio with its quartiles."""
    peers = sorted({name.split()[0] for one in comparisons for name in one["timings"] if name != OURS})
    rows = []
    for one in comparisons:
        timings = one["timings"]
        times = [
            min((t["median_s"] for name, t in timings.items() if name.split()[0] == peer), default=None)
            for peer in peers
        ]
        ratio = one["ratio"]
        rows.append(
            (
                one["network"],
                _microseconds(timings[OURS]["median_s"]),
                *map(_microseconds, times),
                f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
                one["best"],
            )
        )
    return table(("us", "ours", *peers, "best peer / ours (quartiles)", "best peer"), rows)


def counts_table(counts: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            one["network"],
            one["cpu"],
            f"{one['ours']:,}",
            f"{one['litert']:,}",
            f"{one['litert'] / one['ours']:.2f}",
        )
        for one in counts
    ]
    return table(("executed instructions", "CPU", "ours", "LiteRT", "LiteRT / ours"), rows)


def gains_table(gains: Sequence[dict[str, Any]]) -> str:
    def amount(one: dict[str, Any], key: str) -> str:
        return f"{_microseconds(one[key])} us" if one["unit"] == "s" else f"{one[key]:,.0f} instructions"

    rows = [
        (
            one["shape"],
            one["target"],
            one["bits"],
            f"{amount(one, 'at_w8a8')}, {one['kernels'][0]}",
            f"{amount(one, 'at_fewer')}, {one['kernels'][1]}",
            f"{one['ratio']['median']:.2f}",
        )
        for one in gains
    ]
    return table(("layer", "target", "bits", "w8a8", "fewer bits", "ratio"), rows)


def predictions_table(predictions: Sequence[dict[str, Any]]) -> str:
    """By network and target, the mean |relative error|."""
    errors: dict[tuple[str, str], list[float]] = {}
    for one in predictions:
        errors.setdefault((one["network"], one["target"]), []).append(
            abs(one["predicted"] / one["end_to_end"] - 1)
        )
    targets = tuple(dict.fromkeys(target for _, target in errors))
    rows = [
        (network, *(f"{statistics.mean(errors[network, target]):.1%}" for target in targets))
        for network in dict.fromkeys(network for network, _ in errors)
        if all((network, target) in errors for target in targets)
    ]
    return table(("mean error of predictions", *targets), rows)


def tunings_table(tunings: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            one["network"],
            _microseconds(one["by_rule_s"]),
            _microseconds(one["tuned_s"]),
            f"{one['ratio']['median']:.2f} ({one['ratio']['low']:.2f} to {one['ratio']['high']:.2f})",
            f"{one['changed_layers']} of {one['layers']}",
        )
        for one in tunings
    ]
    return table(("1 thread, us", "by rule", "tuned", "by rule / tuned (quartiles)", "other kernels"), rows)


def roofline_table(found: Sequence[dict[str, Any]]) -> str:
    """Per network its share, and the three layers that lose most against the roof."""
    rows = []
    for one in found:
        layers = one["layers"]
        total_s = sum(layer["time_s"] for layer in layers)
        worst = sorted(layers, key=lambda layer: _roof_s(layer) - layer["time_s"])[:3]
        told = (f"{w['layer']} {_roof_s(w) / w['time_s']:.0%} of {w['time_s'] / total_s:.0%}" for w in worst)
        rows.append((one["network"], f"{one['share']:.0%}", "; ".join(told)))
    return table(("1 thread", "share of the roof", "layers that lose most: share, of the time"), rows)


def _roof_s(layer: dict[str, Any]) -> float:
    share = max(layer["compute_share"], layer["memory_share"])
    return float(layer["time_s"] * min(share, 1.0))


def bars_table(bars: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            bar["name"],
            f"{bar['limit']} {bar['wanted']}",
            "" if bar["got"] is None else f"{bar['got']:.3g}",
            bar["place"],
            bar["verdict"],
        )
        for bar in bars
    ]
    return table(("bar", "wanted", "got", "", ""), rows)


def page(results: dict[str, Any]) -> str:
    """All tables, one after the other."""
    parts = [bars_table(results["bars"])]
    for threads in (1, 2):
        chosen = [one for one in results["comparisons"] if len(one["cores"]) == threads]
        parts.append(f"{threads} thread{'s' * (threads > 1)}:\n\n{peers_table(chosen)}")
    parts += [
        counts_table(results["counts"]),
        gains_table(results["gains"]),
        predictions_table(results["predictions"]),
        tunings_table(results["tunings"]),
        roofline_table(results["rooflines"]),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())))
