"""The commands on boards: a network compiled, verified, timed and inspected there, and what a bad board does to it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from haqnas.cli.main import run
from haqnas.devices import ssh
from haqnas.devices.device import Completed
from tests.devices.servers import SshServer, free_port

MODEL = """
import torch
from torch import nn

def build_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

def example_inputs():
    return (torch.zeros(1, 2, 6, 6),)
"""

Call = Callable[..., tuple[int, dict[str, object]]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """A command with --json in this process; gives exit code and object."""

    def run_command(*words: object) -> tuple[int, dict[str, object]]:
        capfd.readouterr()
        exit_code = run([str(word) for word in (*words, "--json")])
        return exit_code, json.loads(capfd.readouterr().out)

    return run_command


@pytest.fixture(scope="module")
def compiled(board: SshServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled with the board as its device."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(MODEL)
    words = ("compile", folder / "net.py", "-o", folder / "out", "--format", "exe,layers", "--quiet")
    assert run([str(word) for word in (*words, "--device", board.uri())]) == 0
    return folder / "out"


def test_latency_of_a_compilation_comes_from_the_board(compiled: Path, board: SshServer) -> None:
    latency = json.loads((compiled / "manifest.json").read_text())["latency"]
    assert (latency["kind"], latency["device"]) == ("measured", board.uri())
    assert latency["median_s"] > 0


def test_artefact_is_verified_and_timed_on_the_board(compiled: Path, board: SshServer, call: Call) -> None:
    exit_code, document = call("verify", compiled, "--device", board.uri())
    assert exit_code == 0
    assert [check["result"] for check in document["checks"]] == ["ok"] * 5
    exit_code, document = call("bench", compiled, "--device", board.uri(), "--runs", 20)
    assert exit_code == 0
    assert document["latency"]["device"] == board.uri()


def test_layers_are_timed_on_the_board(compiled: Path, board: SshServer, call: Call) -> None:
    exit_code, document = call("inspect", compiled, "--device", board.uri())
    assert exit_code == 0
    assert (document["times"]["kind"], document["times"]["unit"]) == ("measured", "s")
    times = {row["name"]: row["time"] for row in document["layers"]}
    assert all(time_s > 0 for time_s in times.values() if time_s is not None)
    assert {"0", "3"} <= {name for name, time_s in times.items() if time_s is not None}


def test_layers_without_their_executable_say_what_to_compile(tmp_path: Path, call: Call) -> None:
    model = tmp_path / "net.py"
    model.write_text(MODEL)
    assert call("compile", model, "-o", tmp_path / "out", "--format", "exe", "--quiet")[0] == 0
    exit_code, document = call("inspect", tmp_path / "out", "--device", "local")
    assert (exit_code, "--format exe,layers" in str(document["message"])) == (2, True)


def test_board_that_computes_wrongly_fails_verification(
    compiled: Path, board: SshServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ssh.board.read_run

    def flip(*arguments: object) -> Completed | None:
        done = honest(*arguments)
        changed = {
            path: bytes([data[0] ^ 1]) + data[1:] for path, data in (done.files if done else {}).items()
        }
        return replace(done, files=changed) if done else None

    monkeypatch.setattr(ssh.board, "read_run", flip)
    exit_code, document = call("verify", compiled, "--device", board.uri())
    assert (exit_code, document["code"]) == (5, "VERIFICATION")
    assert f"on {board.uri()}" in str(document["message"])


def test_board_that_is_gone_ends_with_exit_code_4_and_nothing_lost(
    compiled: Path, board: SshServer, call: Call, tmp_path: Path
) -> None:
    gone = board.uri().replace(f":{board.port}", f":{free_port()}")
    for command in ("verify", "bench", "inspect"):
        exit_code, document = call(command, compiled, "--device", gone)
        assert (command, exit_code, document["code"]) == (command, 4, "DEVICE")
    assert call("verify", compiled, "--device", board.uri())[0] == 0
    model = tmp_path / "net.py"
    model.write_text(MODEL)
    words = ("compile", model, "-o", tmp_path / "out", "--format", "exe", "--quiet")
    assert call(*words, "--device", gone)[0] == 4
    assert not (tmp_path / "out/manifest.json").exists()
    assert call(*words, "--device", board.uri())[0] == 0


def test_output_of_a_wrong_size_is_the_programs_failure(
    compiled: Path, board: SshServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ssh.board.read_run

    def cut(*arguments: object) -> Completed | None:
        done = honest(*arguments)
        return replace(done, files={path: data[:-1] for path, data in done.files.items()}) if done else None

    monkeypatch.setattr(ssh.board, "read_run", cut)
    exit_code, document = call("verify", compiled, "--device", board.uri())
    assert (exit_code, document["code"]) == (4, "PROGRAM")
    assert "bytes were expected" in str(document["message"])


@pytest.mark.parametrize("uri", ["ssh://", "tvm-rpc://192.0.2.1:9090", "gpu:0", "local?x=1"])
def test_wrong_device_is_a_usage_error(compiled: Path, call: Call, uri: str) -> None:
    assert call("verify", compiled, "--device", uri)[0] == 2
