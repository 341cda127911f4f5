"""Write the report of an artefact."""

from pathlib import Path

from haqnas.artifact import STUDY, Artifact, write_atomically
from haqnas.inspection import inspect
from haqnas.report.page import Report, Rows, render_page
from haqnas.report.trials import read_trials

FILE_NAME = "report.html"


def write_report(
    artifact: Artifact, summary: Rows, output: Path | None = None, device: str | None = None
) -> Path:
    """Read the artefact's binaries back and write the page, to `output` or into the artefact; gives its path.

    `summary` is what is said on top, name by name; times of layers are measured on `device`, else predicted. Raises as
    `inspect`, OSError where the file cannot be written.
    """
    path = artifact.directory / FILE_NAME if output is None else output
    trials = read_trials(artifact.directory / STUDY)
    page = render_page(Report(artifact.manifest, summary, inspect(artifact, device), trials))
    write_atomically(path, page.encode())
    return path
