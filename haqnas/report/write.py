"""Write the report of an artefact."""

from pathlib import Path

from haqnas.artifact import STUDY, Artifact, write_atomically
from haqnas.inspection import inspect
from haqnas.report.page import Report, Rows, render_page
from haqnas.report.trials import TrialRow

FILE_NAME = "report.html"


def write_report(
    artifact: Artifact, summary: Rows, output: Path | None = None, device: str | None = None
) -> Path:
    """Read the artefact's binaries back and write the page, to `output` or into the artefact; gives its path.

    `summary` is what is said on top, name by name; times of layers are measured on `device`, else predicted. Raises as
    `inspect`, OSError where the file cannot be written.
    """
    path = artifact.directory / FILE_NAME if output is None else output
    trials = read_trials(artifact)
    page = render_page(Report(artifact.manifest, summary, inspect(artifact, device), trials))
    write_atomically(path, page.encode())
    return path


def read_trials(artifact: Artifact) -> tuple[TrialRow, ...]:
    """The trials of the strategy whose answer was compiled; none where it makes none."""
    record, path = artifact.manifest.search, artifact.directory / STUDY
    if record is None or not path.exists():
        return ()
    from haqnas.search.study import read_journal  # Optuna takes a second to import

    return tuple(
        TrialRow(
            number=trial.number,
            strategy=record.strategy,
            fidelity=trial.facts["fidelity"],
            score=trial.score,
            latency=trial.facts["latency"],
            choices=trial.choices,
            credit=trial.facts.get("credit", {}),
            reason=trial.facts.get("failure") or trial.facts.get("reason", ""),
        )
        for trial in read_journal(path, record.strategy)
    )
