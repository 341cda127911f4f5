"""The command line as tests call it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

TIMEOUT_S = 300

Result: TypeAlias = "subprocess.CompletedProcess[str]"
Haqnas: TypeAlias = Callable[..., Result]


def in_process(*arguments: object, **environment: str) -> Result:
    """The command as a process of its own: what a user starts."""
    return subprocess.run(
        [sys.executable, "-m", "haqnas.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **environment},
    )


def write(folder: Path, text: str, name: str = "net.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refuse(result: Result, exit_code: int, words: str) -> None:
    """A refusal: its exit code, the words on stderr, no traceback."""
    assert result.returncode == exit_code, result.stderr
    assert words in result.stderr
    assert "haqnas: error: " in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
