"""Progress where there is no terminal: one line a stage."""

import pytest

from haqnas.cli import progress
from haqnas.progress import Progress


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
