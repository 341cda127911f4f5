"""The command in this process, and an artefact that it made."""

import subprocess
from pathlib import Path

import pytest

from haqnas.cli.main import run
from tests.cli.command import Haqnas, Result, in_process, write
from tests.cli.models import WITH_DATA


@pytest.fixture
def haqnas(capfd: pytest.CaptureFixture[str]) -> Haqnas:
    """The same command in this process: without seconds of imports each time."""

    def call(*arguments: object) -> Result:
        words = [str(argument) for argument in arguments]
        capfd.readouterr()
        exit_code = run(words)
        captured = capfd.readouterr()
        return subprocess.CompletedProcess(words, exit_code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """(model file, artefact, the compile command's result) for the host."""
    folder = tmp_path_factory.mktemp("compiled")
    model = write(folder, WITH_DATA)
    return model, folder / "out", in_process("compile", model, "-o", folder / "out", "--json")
