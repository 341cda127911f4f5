"""Progress: one line a stage, and in a terminal a bar with the table of a search."""

import dataclasses
import io

import pytest
from rich.console import Console

from haqnas.cli import progress
from haqnas.progress import Progress
from haqnas.search.state import Best, SearchState


def test_lines_tell_what_is_left_where_stages_are_even(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = iter((100.0, 100.0, 110.0, 130.0, 140.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now_s))
    with progress.show_progress(is_quiet=False) as show:
        assert show is not None
        show(Progress("profile", 0, 40, "tracing", is_even=True))
        show(Progress("profile", 10, 40, "lowering w4a8", is_even=True))
        show(Progress("build", 3, 7, ""))
        show(Progress("profile", 40, 40, "done", is_even=True))
    assert capsys.readouterr().err.splitlines() == [
        "haqnas: [1/40] 0.0 s: profile: tracing",
        "haqnas: [11/40] 10.0 s, about 30 s left: profile: lowering w4a8",
        "haqnas: [4/7] 30.0 s: build",
        "haqnas: [40/40] 40.0 s, about 0 s left: profile: done",
    ]


def state(**changes: object) -> SearchState:
    best = Best(0.9753, 0.0247, 0.699, {"ARCH": 0.0259, "QUANT": -0.002})
    return dataclasses.replace(SearchState("marl", 56, 0, 120, 7.2, best), **changes)


def shown_last(monkeypatch: pytest.MonkeyPatch, *steps: Progress) -> str:
    """What a terminal shows in the end."""
    shown = io.StringIO()
    console = Console(file=shown, width=160, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.show_progress(is_quiet=False) as show:
        assert show is not None
        for step in steps:
            show(step)
    return shown.getvalue().rpartition(f"{steps[-1].stage} ")[2]


def test_a_terminal_shows_a_table_while_there_is_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searching = Progress("bits", 1, 9, "marl: trial 56 of 120", search=state())
    assert "credit ARCH" in shown_last(monkeypatch, searching)
    after = shown_last(monkeypatch, searching, Progress("quantize", 2, 9, "w4a8 by hand"))
    assert "w4a8 by hand" in after
    assert "credit ARCH" not in after


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            [
                "56 of 120",
                "97.53%",
                "2.47%",
                "69.9%",
                "credit ARCH",
                "+0.0259",
                "credit QUANT",
                "-0.002",
                "7 s",
            ],
        ),
        ({"num_failed": 2}, ["56 of 120, 2 failed"]),
        ({"best": None, "left_s": None, "num_done": 0}, ["0 of 120", "-"]),
    ],
)
def test_the_table_of_a_search(changes: dict[str, object], words: list[str]) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(progress.search_table(state(**changes)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert [word for word in words if word not in text] == []


def test_a_line_tells_of_the_search() -> None:
    assert state().describe() == (
        "marl: trial 56 of 120, best drop 2.47% at 69.9% of the latency (most by ARCH: +0.0259), about 7 s left"
    )
    assert state(best=None, left_s=None).describe() == "marl: trial 56 of 120, none succeeded yet"
