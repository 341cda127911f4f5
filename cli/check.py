"""`haqnas check`: the gate of CI; and where the CMake package lies."""

from collections.abc import Callable
from pathlib import Path

import click

from haqnas.cli.commands import EXIT_MISSED, device_option, group, json_option, read_share
from haqnas.cli.render import print_json, print_table


def _share_option(name: str, default: str, what: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.option(
        name, default=default, show_default=True, metavar="SHARE", callback=read_share, help=what
    )


@group.command("check")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--baseline", required=True, metavar="DIR2", type=click.Path(path_type=Path), help="The artefact to hold."
)
@device_option
@_share_option("--max-slowdown", "2%", "Of the latency, where the interval shows it too.")
@_share_option("--max-growth", "1%", "Of executable, packed weights and workspace, each.")
@_share_option("--max-drop", "0.5%", "Of the accuracy: points, not a share of it.")
@click.option("--allow-wider-bits", is_flag=True, help="Layers may have more bits than in the baseline.")
@click.option("--strict", is_flag=True, help="What cannot be checked fails too.")
@click.option(
    "--time-limit", "limit_s", default=10.0, show_default=True, metavar="SECONDS", help="Of the measurement."
)
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Write JUnit's XML.")
@click.option(
    "--markdown", metavar="FILE", type=click.Path(path_type=Path), help="Write a table in Markdown."
)
@json_option
def check_command(
    directory: Path,
    baseline: Path,
    device: str | None,
    max_slowdown: float,
    max_growth: float,
    max_drop: float,
    allow_wider_bits: bool,
    strict: bool,
    limit_s: float,
    junit: Path | None,
    markdown: Path | None,
    is_json: bool,
) -> int:
    """Compare the artefact DIR with a baseline: latency, size, accuracy, bits; exit code 3 where one got worse.

    Both binaries take turns on the device. Where none here runs both, counts and predictions in the manifests are
    compared, and measured times are not.
    """
    from haqnas.artifact import load
    from haqnas.devices.latency import TimingPlan
    from haqnas.gate import Tolerances, check, to_document
    from haqnas.gate_report import to_junit, to_markdown

    tolerances = Tolerances(max_slowdown, max_growth, max_drop, allow_wider_bits)
    plan = TimingPlan(limit_s=limit_s)
    verdict = check(load(directory), load(baseline), tolerances, plan, device, strict)
    names = (str(directory), str(baseline))
    if junit is not None:
        junit.write_bytes(to_junit(verdict, names[0]))
    if markdown is not None:
        markdown.write_text(to_markdown(verdict, names), encoding="utf-8")
    if is_json:
        print_json({"artifact": names[0], "baseline": names[1], **to_document(verdict)})
    else:
        print_table(("figure", "result", "what"), ((f.name, f.result, f.detail) for f in verdict.findings))
    return 0 if verdict.ok else EXIT_MISSED


@group.command("cmake-dir")
def cmake_dir_command() -> None:
    """Print the folder of the CMake package: cmake -Dhaqnas_DIR="$(haqnas cmake-dir)"."""
    from haqnas.cmake import folder

    click.echo(folder())
