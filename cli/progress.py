"""Progress of a compilation on stderr: a bar where there is a terminal, else one plain line a stage."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
        yield _LinePrinter(time.monotonic())


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


@dataclass(frozen=True, slots=True)
class _LinePrinter:
    """Prints a line per stage, with the seconds since the start and, where stages are even, those that are left."""

    start_s: float

    def __call__(self, step: "Progress") -> None:
        number = min(step.index + 1, step.total)
        elapsed_s = time.monotonic() - self.start_s
        left_s = elapsed_s * (step.total - step.index) / step.index if step.is_even and step.index else None
        left = f", about {left_s:.0f} s left" if left_s is not None else ""
        note = f": {step.note}" if step.note else ""
        print(
            f"haqnas: [{number}/{step.total}] {elapsed_s:.1f} s{left}: {step.stage}{note}",
            file=sys.stderr,
            flush=True,
        )
