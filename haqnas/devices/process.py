"""A child process in a folder and a session of its own, with a time limit: nothing of it is left afterwards."""

import errno
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from haqnas.devices.affinity import pinned_to
from haqnas.devices.device import NO_FILES, Completed, Files
from haqnas.errors import DeviceError, ProgramError

MAX_FILE_BYTES = 1 << 30  # that a program may write: one that runs wild must not fill the disk


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is gone; `exit_code` is minus the number of the signal that ended it."""

    exit_code: int
    stdout: bytes
    stderr: str


def run_process(
    command: Sequence[str],
    name: str,
    timeout_s: float,
    given: Files = NO_FILES,
    wanted: Sequence[str] = (),
    cores: Sequence[int] | None = None,
) -> Completed:
    """Run `command`, pinned to `cores`; `name` is what messages call it.

    Raises ProgramError that says how it crashed, DeviceError where it did not start or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="haqnas-") as scratch:
        outside, folder = Path(scratch), Path(scratch, "work")
        folder.mkdir()
        place_files(folder, given, name)
        started_s = time.perf_counter()
        ended = _run(command, name, timeout_s, folder, outside, cores)
        wall_s = time.perf_counter() - started_s
        if ended.exit_code < 0:
            raise ProgramError(f"{name} {explain_signal(-ended.exit_code)}{last_words(ended.stderr)}")
        files = {path: (folder / path).read_bytes() for path in wanted if (folder / path).is_file()}
        return Completed(ended.exit_code, ended.stdout.decode(errors="replace"), ended.stderr, wall_s, files)


def run_client(command: Sequence[str], name: str, timeout_s: float, stdin: bytes = b"") -> Ended:
    """Run a program of this machine that talks to a device; raises DeviceError where it does not end in time."""
    with tempfile.TemporaryDirectory(prefix="haqnas-") as scratch:
        place_files(Path(scratch), {"stdin": stdin}, name)
        with Path(scratch, "stdin").open("rb") as source:
            return _run(command, name, timeout_s, Path(scratch), Path(scratch), None, source)


def place_files(folder: Path, given: Files, name: str) -> None:
    """Write files into a folder; raises DeviceError where it has no room for them."""
    try:
        for path, data in given.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    except OSError as error:
        raise DeviceError(
            f"the input of {name} cannot be written into {folder}: {error.strerror}; TMPDIR names another folder"
        ) from None


def _run(
    command: Sequence[str],
    name: str,
    timeout_s: float,
    folder: Path,
    outside: Path,
    cores: Sequence[int] | None,
    source: BinaryIO | None = None,
) -> Ended:
    out, err = outside / "stdout", outside / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        try:
            with pinned_to(cores):
                process = subprocess.Popen(
                    list(command),
                    stdin=source or subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise DeviceError(f"{name} cannot be started: {_explain_start(error)}") from None
        try:
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
            has_ended = _ends_within(process, timeout_s)
        finally:
            _end_session(process)
    words = err.read_bytes().decode(errors="replace")
    if not has_ended:
        raise DeviceError(f"{name} did not end within {timeout_s:g} s and was stopped{last_words(words)}")
    return Ended(process.returncode, out.read_bytes(), words)


def _ends_within(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait without polling: a parent that wakes up again and again would disturb what is timed."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(timeout_s * 1e3))
    finally:
        os.close(descriptor)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group before its leader is reaped: until then nobody else can have its number."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _explain_start(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return (
            "it is built for another kind of CPU; choose a device that fits the target, such as --device qemu"
        )
    if error.errno == errno.EACCES:
        return "it is not executable, or its file system is mounted noexec"
    return error.strerror or str(error)


def explain_signal(number: int) -> str:
    """What a signal that ended a program means."""
    if number == signal.SIGILL:
        return (
            "executed an instruction that this CPU does not have (SIGILL); compile for a target that fits it"
        )
    if number == signal.SIGKILL:
        return "was killed (SIGKILL); out of memory is the usual reason"
    if number == signal.SIGXFSZ:
        return f"wrote more than {MAX_FILE_BYTES >> 30} GiB into one file and was stopped (SIGXFSZ)"
    try:
        named = signal.Signals(number).name
    except ValueError:
        named = f"signal {number}"
    return f"crashed ({named}: {signal.strsignal(number) or 'unknown'})"


def last_words(stderr: str, lines: int = 5) -> str:
    """The end of a program's error output, to be put behind a message."""
    kept = stderr.strip().splitlines()[-lines:]
    return "; its last words: " + " | ".join(kept) if kept else ""
