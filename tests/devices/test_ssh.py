"""Boards over ssh: an OpenSSH server on loopback with keys of its own, and what goes wrong with boards."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from haqnas.devices import board as scripts
from haqnas.devices import ssh_connection
from haqnas.devices.affinity import parse_cores
from haqnas.devices.choose import device_for
from haqnas.devices.local import read_host_cpu
from haqnas.devices.ssh import SshDevice
from haqnas.errors import ConfigurationError, DeviceError, ProgramError
from haqnas.hardware import find_profile
from tests.conftest import require_program
from tests.devices.programs import running, wait_until
from tests.devices.servers import SshServer, free_port

HOST = read_host_cpu()


def open_board(uri: str, threads: int = 1) -> SshDevice:
    device = device_for(find_profile("host", HOST), uri, HOST, threads)
    assert isinstance(device, SshDevice)
    return device


@pytest.fixture
def device(board: SshServer) -> Iterator[SshDevice]:
    found = open_board(board.uri())
    yield found
    found.close()


def folder_of(device: SshDevice) -> Path:
    """The private folder, which on loopback can be seen from here."""
    return Path(device.sessions[0].connection.folder)


def behave_as(server: SshServer, command: str) -> None:
    """From the next connection on, what the board runs for any request."""
    key = (server.folder / "user.pub").read_text()
    escaped = command.replace('"', '\\"')
    (server.folder / "authorized").write_text(f'command="{escaped}" {key}')


@pytest.fixture
def odd_board(board: SshServer) -> Iterator[SshServer]:
    yield board
    shutil.copy(board.folder / "user.pub", board.folder / "authorized")


def test_program_runs_with_its_files_on_one_core(device: SshDevice, actor: Path) -> None:
    done = device.run(actor, ["copy"], 10.0, {"a/in.bin": b"\x00\xff\n@"}, ["out/x.bin", "none"])
    assert (done.exit_code, done.files) == (0, {"out/x.bin": b"\x00\xff\n@"})
    assert len(device.run(actor, ["cores"], 10.0).stdout.split()) == 1
    assert device.run(actor, ["stdin"], 10.0).stdout == "0"
    assert device.run(actor, ["fail"], 10.0).stderr == "wrong input\n"


def test_arguments_are_not_read_by_the_boards_shell(device: SshDevice, actor: Path) -> None:
    assert device.run(actor, ["fill", "a 'b\" $(c) `d`"], 10.0, wanted=["a 'b\" $(c) `d`"]).files == {
        "a 'b\" $(c) `d`": b"x" * (1 << 20)
    }


def test_executable_is_copied_once_and_nothing_is_left(device: SshDevice, actor: Path) -> None:
    device.run(actor, ["--bench"], 10.0)
    folder = folder_of(device)
    (program,) = folder.glob("program-*")
    first = program.stat().st_ino
    device.run(actor, ["--bench"], 10.0)
    assert program.stat().st_ino == first
    assert {path.name for path in folder.iterdir()} == {program.name, "probe"}
    assert folder.stat().st_mode & 0o77 == 0
    device.close()
    wait_until(lambda: not folder.exists() and not running(folder.name), "the board cleaned up")


def test_connection_ends_with_the_device_object(board: SshServer, actor: Path) -> None:
    device = open_board(board.uri())
    device.run(actor, ["--bench"], 10.0)
    folder = folder_of(device)
    del device
    wait_until(lambda: not folder.exists(), "the folder is gone")


def test_fingerprint_of_the_board_is_that_of_the_same_machine_here(
    board: SshServer, device: SshDevice
) -> None:
    found = device.fingerprint()
    here = device_for(find_profile("host", HOST), "local", HOST)
    assert here is not None
    assert found.key == here.fingerprint().key
    assert (found.device, found.arch, found.pinned_cores) == (board.uri(), HOST.arch, 1)


def test_cores_are_chosen_on_the_board(board: SshServer, actor: Path) -> None:
    core = min(os.sched_getaffinity(0))
    assert open_board(board.uri(cores=core)).run(actor, ["cores"], 10.0).stdout.split() == [str(core)]
    with pytest.raises(ConfigurationError, match=r"asks for the cores 9999"):
        open_board(board.uri(cores=9999)).run(actor, ["cores"], 10.0)


def test_hanging_program_is_ended_on_the_board_and_the_next_runs(device: SshDevice, actor: Path) -> None:
    with pytest.raises(DeviceError, match=r"did not end within 1 s and was stopped; its last words: waiting"):
        device.run(actor, ["hang"], 1.0)
    wait_until(lambda: not any(" hang" in line for line in running("../../program-")), "the program is gone")
    assert len(device.sessions) == 1  # the connection is still good
    assert device.run(actor, ["fail"], 10.0).exit_code == 5


@pytest.mark.parametrize(("word", "words"), [("crash", "SIGABRT"), ("trap", "does not have")])
def test_crashes_are_the_programs(device: SshDevice, actor: Path, word: str, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        device.run(actor, [word], 10.0)


def test_child_that_a_program_leaves_behind_is_ended(device: SshDevice, actor: Path) -> None:
    assert device.run(actor, ["leave-child"], 10.0).exit_code == 0
    wait_until(lambda: not running("leave-child"), "the child is gone")


def test_garbage_printed_by_a_program_does_not_break_the_answer(device: SshDevice, actor: Path) -> None:
    assert device.run(actor, ["garbage"], 10.0).stdout == "\ufffd\x00@\n@ end"


def test_full_disk_under_a_program_is_the_devices_failure(device: SshDevice, actor: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"want of disk space there; its last words: cannot write"
    ) as caught:
        device.run(actor, ["fill", "/dev/full"], 10.0)
    assert not isinstance(caught.value, ProgramError)


def test_board_that_does_not_take_the_copy_says_why(odd_board: SshServer, actor: Path) -> None:
    behave_as(odd_board, 'ulimit -f 8; trap "" XFSZ; eval "$SSH_ORIGINAL_COMMAND"')
    with pytest.raises(DeviceError, match=r"does not take .* bytes into .*File too large; \?folder=/path"):
        open_board(odd_board.uri()).run(actor, ["fail"], 10.0)


def test_folder_where_nothing_can_be_written_is_told(board: SshServer, actor: Path) -> None:
    with pytest.raises(DeviceError, match=r"no folder where a program may be .* \(tried /proc\); \?folder"):
        open_board(board.uri(folder="/proc")).run(actor, ["fail"], 10.0)


def test_folder_may_have_any_name(board: SshServer, actor: Path, tmp_path: Path) -> None:
    (tmp_path / "a 'b $c").mkdir()
    device = open_board(board.uri(folder=tmp_path / "a 'b $c"))
    assert device.run(actor, ["copy"], 10.0, {"a/in.bin": b"abc"}, ["out/x.bin"]).files == {
        "out/x.bin": b"abc"
    }
    device.close()
    wait_until(lambda: not [*(tmp_path / "a 'b $c").iterdir()], "the folder is empty again")


def test_program_for_another_cpu_is_told_before_it_is_copied(device: SshDevice, tmp_path: Path) -> None:
    other = 183 if HOST.arch == "x86_64" else 62
    program = tmp_path / "other"
    program.write_bytes(b"\x7fELF" + bytes(14) + other.to_bytes(2, "little") + bytes(100))
    with pytest.raises(DeviceError, match=r"other is built for .*, but ssh://.* is .*; choose a target"):
        device.run(program, [], 10.0)


def test_connection_that_drops_in_the_middle_is_told_and_opened_again(
    board: SshServer, device: SshDevice, actor: Path
) -> None:
    device.run(actor, ["fail"], 10.0)
    folder = folder_of(device)

    def drop() -> None:
        wait_until(lambda: any("hang" in line for line in running("../../program-")), "the program runs")
        for line in Path(f"/proc/{board.pid}/task/{board.pid}/children").read_text().split():
            os.kill(int(line), signal.SIGKILL)

    thread = threading.Thread(target=drop)
    thread.start()
    with pytest.raises(DeviceError, match=r"connection to ssh://.* was lost while actor on"):
        device.run(actor, ["hang"], 60.0)
    thread.join()
    wait_until(lambda: not folder.exists() and not running(folder.name), "the board cleaned up")
    assert device.run(actor, ["fail"], 10.0).exit_code == 5


def test_haqnas_that_is_killed_leaves_nothing_on_the_board(
    board: SshServer, actor: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.devices.test_ssh import open_board, folder_of\n"
        f"device = open_board({board.uri()!r})\n"
        f"actor = Path({str(actor)!r}); device.run(actor, ['fail'], 10.0)\n"
        f"Path({str(tmp_path / 'folder')!r}).write_text(str(folder_of(device)))\n"
        "device.run(actor, ['hang'], 300.0)"
    )
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    try:
        wait_until((tmp_path / "folder").exists, "the first run")
        folder = Path((tmp_path / "folder").read_text())
        wait_until(lambda: any("hang" in line for line in running("../../program-")), "the program runs")
    finally:
        child.kill()
        child.wait()
    wait_until(lambda: not folder.exists(), "the folder is gone")
    wait_until(lambda: not any("hang" in line for line in running("../../program-")), "the program is gone")


def test_interrupted_run_ends_the_program_on_the_board(device: SshDevice, actor: Path) -> None:
    device.run(actor, ["fail"], 10.0)
    folder = folder_of(device)
    timer = threading.Timer(1.0, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        device.run(actor, ["hang"], 60.0)
    wait_until(lambda: not folder.exists(), "the folder is gone")


def test_unknown_host_is_refused_with_what_to_type(board: SshServer, actor: Path) -> None:
    config = board.write_config("empty", "")
    login = f"ssh -p {board.port} {board.user}@127.0.0.1"
    with pytest.raises(
        DeviceError, match=rf"not known, so it may be any machine; type: {login} .*accept-new"
    ):
        open_board(board.uri(config=config)).run(actor, ["fail"], 10.0)
    assert (board.folder / "empty-known").read_text() == ""


def test_unknown_host_is_accepted_where_the_user_says_so(board: SshServer, actor: Path) -> None:
    config = board.write_config("new", "")
    assert (
        open_board(board.uri(config=config, hostkey="accept-new")).run(actor, ["fail"], 10.0).exit_code == 5
    )
    assert "ssh-ed25519" in (board.folder / "new-known").read_text()


@pytest.mark.parametrize("hostkey", ["known", "accept-new"])
def test_changed_host_key_is_always_refused(board: SshServer, actor: Path, hostkey: str) -> None:
    other = (board.folder / "user.pub").read_text().split()[1]
    config = board.write_config(f"changed-{hostkey}", f"[127.0.0.1]:{board.port} ssh-ed25519 {other}\n")
    with pytest.raises(
        DeviceError, match=r"shows another host key than the one that is known.*ssh-keygen -R"
    ):
        open_board(board.uri(config=config, hostkey=hostkey)).run(actor, ["fail"], 10.0)


def test_login_that_is_refused_asks_for_no_password(odd_board: SshServer, actor: Path) -> None:
    (odd_board.folder / "authorized").write_text("")
    with pytest.raises(DeviceError, match=r"refuses the login, and haqnas never asks .* type: ssh-copy-id"):
        open_board(odd_board.uri()).run(actor, ["fail"], 10.0)


def test_board_that_is_not_there_is_told(board: SshServer, actor: Path) -> None:
    uri = board.uri().replace(f":{board.port}", f":{free_port()}")
    with pytest.raises(DeviceError, match=r"cannot be reached.*Connection refused.*does `ssh .* true` work"):
        open_board(uri).run(actor, ["fail"], 10.0)


def test_host_that_says_nothing_is_given_up(
    board: SshServer, actor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_connection, "_CONNECT_S", 1.0)
    monkeypatch.setattr(ssh_connection, "_CLOSE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = board.uri().replace(f":{board.port}", f":{silent.getsockname()[1]}")
        with pytest.raises(DeviceError, match="did not answer within 1 s"):
            open_board(uri).run(actor, ["fail"], 10.0)


def test_shell_that_greets_does_no_harm(odd_board: SshServer, actor: Path) -> None:
    behave_as(odd_board, 'echo welcome; echo 1 @ end; eval "$SSH_ORIGINAL_COMMAND"')
    done = open_board(odd_board.uri()).run(actor, ["copy"], 10.0, {"a/in.bin": b"abc"}, ["out/x.bin"])
    assert done.files == {"out/x.bin": b"abc"}


def test_board_that_answers_garbage_is_given_up(odd_board: SshServer, actor: Path) -> None:
    behave_as(odd_board, "head -c 100000 /dev/urandom")
    with pytest.raises(DeviceError, match="cannot be reached"):
        open_board(odd_board.uri()).run(actor, ["fail"], 10.0)


def test_answer_that_is_cut_is_told(odd_board: SshServer, actor: Path) -> None:
    behave_as(odd_board, 'case "$SSH_ORIGINAL_COMMAND" in *setsid*) head -c 99 /dev/urandom;; *) '
              'eval "$SSH_ORIGINAL_COMMAND";; esac')  # fmt: skip
    with pytest.raises(DeviceError, match="answer that is not whole while actor on"):
        open_board(odd_board.uri()).run(actor, ["fail"], 10.0)


def test_board_that_never_answers_a_run_is_given_up(
    odd_board: SshServer, actor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haqnas.devices.ssh._MARGIN_S", 2.0)
    monkeypatch.setattr(ssh_connection, "_CLOSE_S", 0.5)
    behave_as(odd_board, 'case "$SSH_ORIGINAL_COMMAND" in *setsid*) exec sleep 60;; *) '
              'eval "$SSH_ORIGINAL_COMMAND";; esac')  # fmt: skip
    with pytest.raises(DeviceError, match=r"does not answer: actor .* did not end within 3 s"):
        open_board(odd_board.uri()).run(actor, ["fail"], 1.0)


def test_busybox_is_enough_on_the_board(odd_board: SshServer, actor: Path, tmp_path: Path) -> None:
    busybox = require_program("busybox", "busybox")
    subprocess.run([busybox, "--install", "-s", str(tmp_path)], check=True)
    behave_as(odd_board, f'PATH={tmp_path}; export PATH; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    device = open_board(odd_board.uri())
    assert device.run(actor, ["copy"], 10.0, {"a/in.bin": b"abc"}, ["out/x.bin"]).files == {
        "out/x.bin": b"abc"
    }
    with pytest.raises(DeviceError, match="did not end within 1 s"):
        device.run(actor, ["hang"], 1.0)
    with pytest.raises(ProgramError, match="SIGABRT"):
        device.run(actor, ["crash"], 10.0)
    folder = folder_of(device)
    device.close()
    wait_until(lambda: not folder.exists() and not running(folder.name), "the board cleaned up")


def test_board_without_taskset_is_not_pinned_and_says_so(device: SshDevice) -> None:
    device.fingerprint()
    facts = {**device.sessions[0].connection.facts, scripts.TASKSET: ""}
    pinning = scripts.plan_pinning(facts, None, 1, "ssh://pi")
    assert pinning.prefix == ""
    assert scripts.describe_board("ssh://pi", facts, pinning).pinned_cores is None
    with pytest.raises(DeviceError, match="no taskset"):
        scripts.plan_pinning(facts, "0", 1, "ssh://pi")
    assert scripts.plan_pinning({**facts, scripts.TASKSET: "/bin/taskset"}, "0", 1, "x").used == parse_cores(
        "0"
    )


@pytest.mark.parametrize(
    "uri",
    [
        "ssh:board",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-l@host",
        "ssh://a b",
        "ssh://a:0",
        "ssh://a:70000",
    ],
)
def test_addresses_that_make_no_sense_are_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="a board is ssh://user@host:port"):
        open_board(uri)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("hostkey=no", "hostkey is known"),
        ("folder=x", "absolute path"),
        ("a=b", "unknown option 'a'; ssh has"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        open_board(f"ssh://board?{options}")


def test_missing_client_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    with pytest.raises(DeviceError, match="apt install openssh-client"):
        open_board("ssh://board")


def test_login_is_as_one_types_it(board: SshServer) -> None:
    endpoint = open_board(board.uri()).endpoint
    assert endpoint.login == f"-p {board.port} {board.user}@127.0.0.1"
    assert replace(endpoint, user=None, port=None).login == "127.0.0.1"
    assert open_board("ssh://[::1]:22").endpoint.host == "::1"
