"""What `compile` prints for several targets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from haqnas.cli.render import print_table, seconds, summary_document

if TYPE_CHECKING:
    from haqnas.api import TargetResult
    from haqnas.devices.latency import Latency
    from haqnas.evaluate import Accuracy
    from haqnas.manifest import Baseline


def result_document(result: "TargetResult") -> dict[str, Any]:
    """What came of one of several targets, for programs: as if it had been the only one."""
    told = {"target": result.target, "time_s": result.time_s}
    if result.error is not None:
        code, exit_code = result.error.code, result.error.exit_code
        return {**told, "ok": False, "code": code, "message": str(result.error), "exit_code": exit_code}
    assert result.artifact is not None
    return {**summary_document(result.artifact), **told, "ok": not result.artifact.manifest.missed}


HEADER = ("target", "accuracy", "latency", "of int8", "bytes of weights", "budgets", "s")


def print_results(results: "Sequence[TargetResult]") -> None:
    """One line for each of several targets."""
    numbers = ("accuracy", "latency", "of int8", "bytes of weights", "s")
    print_table(HEADER, [_row(result) for result in results], right=numbers)


def _row(result: "TargetResult") -> tuple[str, ...]:
    time_s = f"{result.time_s:.1f}"
    if result.artifact is None:
        failure = "" if result.error is None else f"failed: {result.error.code}"
        return (result.target, "", "", "", "", failure, time_s)
    manifest = result.artifact.manifest
    budgets = "MISSED" if manifest.missed else "met"
    return (
        result.target,
        _short_accuracy(manifest.accuracy),
        _short_latency(manifest.latency),
        _share_of_int8(manifest.baseline),
        f"{manifest.sizes.packed_weight_bytes:,}",
        budgets if manifest.constraints else "",
        time_s,
    )


def _short_accuracy(accuracy: "Accuracy | None") -> str:
    if accuracy is None:
        return ""
    return f"{accuracy.simulated:.4g}" if accuracy.metric == "evaluate" else f"{accuracy.simulated:.2%}"


def _share_of_int8(baseline: "Baseline | None") -> str:
    if baseline is None or baseline.comparison is None:
        return ""
    return "int8 ships" if baseline.shipped == "uniform" else f"{baseline.comparison.ratio:.1%}"


def _short_latency(latency: "Latency | None") -> str:
    if latency is None:
        return ""
    if latency.median_s is not None:
        return f"{seconds(latency.median_s)} {latency.kind}"
    return f"{latency.instructions:,} instructions {latency.kind}"
