"""Progress of a compilation on stderr: a bar where there is a terminal, else one plain line a stage."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from haqnas.api import Progress


@contextmanager
def show_progress(is_quiet: bool) -> Iterator["Callable[[Progress], None] | None"]:
    """Give the callback for `compile`; None where nothing is to be shown."""
    if is_quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("start", total=None, note="")
            yield lambda step: bar.update(
                task, total=step.total, completed=step.index, description=step.stage, note=step.note
            )
    else:
        yield _print_line


def _bar() -> Bar:
    return Bar(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


def _print_line(step: "Progress") -> None:
    number = min(step.index + 1, step.total)
    note = f": {step.note}" if step.note else ""
    print(f"haqnas: [{number}/{step.total}] {step.stage}{note}", file=sys.stderr, flush=True)
