"""Commands about an artefact that is there: `verify`, `bench`, `inspect`."""

from dataclasses import asdict
from pathlib import Path

import click

from haqnas.cli.commands import (
    EXIT_MISSED,
    device_option,
    group,
    json_option,
    read_share,
    refuse_together,
    split_list,
)
from haqnas.cli.inspection import inspect_sensitivity, inspect_space, inspection_document, print_inspection
from haqnas.cli.render import (
    comparison_rows,
    latency_rows,
    print_json,
    print_lines,
    summarise,
    summary_document,
)


@group.command("verify")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@device_option
@json_option
def verify_command(directory: Path, device: str | None, is_json: bool) -> None:
    """Prove the artefact DIR: its files, its integer reference, its binary."""
    from haqnas.artifact import verify

    checks = verify(directory, device)
    if is_json:
        print_json({"artifact": str(directory), "checks": [asdict(check) for check in checks]})
    else:
        print_lines((f"{check.name}: {check.result}", check.detail) for check in checks)


@group.command("bench")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@device_option
@click.option(
    "--precision",
    metavar="SHARE",
    callback=read_share,
    help="Measure until the 95 % interval of the median is so narrow to each side: 1% (the default) or 0.01.",
)
@click.option(
    "--time-limit",
    "limit_s",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop then, precise or not.",
)
@click.option(
    "--runs", type=int, metavar="N", help="Exactly so many inferences instead; rounds with --against."
)
@click.option(
    "--sustained",
    "sustained_s",
    type=float,
    metavar="SECONDS",
    help="Without a pause; p95 once it is steady.",
)
@click.option("--cold", is_flag=True, help="Evict the caches before each run.")
@click.option(
    "--against",
    metavar="DIR2",
    type=click.Path(path_type=Path),
    help="Compare with this artefact: the two take turns, and pairs of turns are compared.",
)
@json_option
def bench_command(
    directory: Path,
    device: str | None,
    precision: float | None,
    limit_s: float,
    runs: int | None,
    sustained_s: float | None,
    cold: bool,
    against: Path | None,
    is_json: bool,
) -> int:
    """Time the artefact DIR; count instructions and model cycles where its device is emulated."""
    from haqnas.artifact import load
    from haqnas.devices.latency import TimingPlan

    refuse_together(precision=precision, runs=runs, sustained=sustained_s)
    refuse_together(against=against, sustained=sustained_s)
    plan = TimingPlan(runs, precision or 0.01, limit_s, sustained_s, "cold" if cold else "warm")
    artifact = load(directory)
    if against is None:
        latency = artifact.bench(device, plan)
        document: dict[str, object] = {"latency": latency.to_document()}
        rows, stopped = latency_rows(latency), latency.stopped
    else:
        comparison = artifact.compare(load(against), device, plan)
        document = {"against": str(against), "comparison": comparison.to_document()}
        rows = comparison_rows(comparison, (str(directory), str(against)))
        stopped = comparison.stopped
    is_missed = precision is not None and stopped not in {"precision", None}
    if is_json:
        print_json({"artifact": str(directory), **document, "ok": not is_missed})
    else:
        print_lines([*rows, *([("precision", "missed")] if is_missed else [])])
    return EXIT_MISSED if is_missed else 0


@group.command("inspect")
@click.argument("place", metavar="DIR|MODEL")
@device_option
@click.option(
    "--sensitivity",
    "is_sensitivity",
    is_flag=True,
    help="What each layer loses at fewer bits: as the search for the bits of DIR saw it, or of a model file.",
)
@click.option(
    "--space",
    "is_space",
    is_flag=True,
    help="Widths, depths, kernel sizes and resolutions that the network of a model file may have.",
)
@click.option("--target", default="host", show_default=True, help="Whose bits a model file is tried at.")
@click.option("--bits", metavar="wXaY,...", default="", help="What it is tried at instead.")
@click.option("--method", default="gradient", show_default=True, help="gradient or kl (docs/bits.md).")
@json_option
def inspect_command(
    place: str,
    device: str | None,
    is_sensitivity: bool,
    is_space: bool,
    target: str,
    bits: str,
    method: str,
    is_json: bool,
) -> None:
    """Print the artefact DIR layer by layer: bits requested, simulated and emitted, as read back from its binary.

    Times are predicted by the profile's table; with --device measured there, where DIR was compiled with --format
    exe,layers. Exit code 5 where binary, integer graph and manifest differ.
    """
    refuse_together(sensitivity=is_sensitivity or None, space=is_space or None)
    if is_sensitivity:
        inspect_sensitivity(place, target, split_list(bits), method, is_json)
        return
    if is_space:
        inspect_space(place, is_json)
        return
    from haqnas.artifact import load
    from haqnas.inspection import inspect

    artifact = load(Path(place))
    inspection = inspect(artifact, device)
    if is_json:
        print_json({**summary_document(artifact), **inspection_document(inspection)})
        return
    print_lines(summarise(artifact))
    print()
    print_inspection(inspection)
