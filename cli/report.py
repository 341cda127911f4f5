"""`haqnas report`: one HTML page about an artefact."""

from pathlib import Path

import click

from haqnas.cli.commands import device_option, group, json_option
from haqnas.cli.render import print_json, summarise


@group.command("report")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Default: report.html in DIR."
)
@device_option
@json_option
def report_command(directory: Path, output: Path | None, device: str | None, is_json: bool) -> None:
    """Write one HTML page about the artefact DIR: budgets, bits and time of each layer, and its search.

    The page needs no network. Times of layers are predicted by the profile's table; with --device measured there, where
    DIR was compiled with --format exe,layers.
    """
    from haqnas.artifact import load
    from haqnas.report.write import write_report

    artifact = load(directory)
    path = write_report(artifact, summarise(artifact), output, device)
    if is_json:
        print_json({"artifact": str(directory), "report": str(path)})
    else:
        print(path)
