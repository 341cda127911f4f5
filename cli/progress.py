"""Progress of a compilation on stderr: with a terminal a bar, and a table of a search, else one plain line a stage."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from haqnas.api import Progress
    from haqnas.search.state import SearchState


@contextmanager
def show_progress(is_quiet: bool) -> Iterator["Callable[[Progress], None] | None"]:
    """Give the callback for `compile`; None where nothing is to be shown."""
    if is_quiet:
        yield None
    elif sys.stderr.isatty():
        console = Console(stderr=True)
        bar = _bar(console)
        task = bar.add_task("start", total=None, note="")
        with Live(bar, console=console) as live:

            def show(step: "Progress") -> None:
                note = step.note if step.search is None else ""
                bar.update(task, total=step.total, completed=step.index, description=_name(step), note=note)
                live.update(bar if step.search is None else Group(bar, search_table(step.search)))

            yield show
    else:
        yield _LinePrinter(time.monotonic())


def _name(step: "Progress") -> str:
    """Of the stage; of several targets, whose it is."""
    return step.stage if step.target is None else f"{step.target}: {step.stage}"


def search_table(state: "SearchState") -> Table:
    """The trials so far, the best of them, what its agents had of it, and the time that is left."""
    best = state.best
    trials = f"{state.num_done} of {state.num_trials}"
    columns = {
        "strategy": state.strategy,
        "trials": trials if state.num_failed == 0 else f"{trials}, {state.num_failed} failed",
        "best accuracy": "-" if best is None else f"{best.accuracy:.2%}",
        "drop": "-" if best is None else f"{best.drop:.2%}",
        "latency, of int8": "-"
        if best is None or best.latency_share is None
        else f"{best.latency_share:.1%}",
        **(
            {} if best is None else {f"credit {name}": f"{value:+.3g}" for name, value in best.credit.items()}
        ),
        "left": "-" if state.left_s is None else f"{state.left_s:.0f} s",
    }
    table = Table(box=None, padding=(0, 2))
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*columns.values())
    return table


def _bar(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
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
            f"haqnas: [{number}/{step.total}] {elapsed_s:.1f} s{left}: {_name(step)}{note}",
            file=sys.stderr,
            flush=True,
        )
