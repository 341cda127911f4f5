"""Device: where an executable runs. One verb, `run`; failures of the device itself are DeviceError."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from haqnas.errors import DeviceError

# measured: wall time of the machine itself. emulated: its time means nothing, only instructions count.
LatencyKind = Literal["measured", "emulated"]


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended by itself; what its exit code means is the caller's business."""

    exit_code: int
    stdout: str
    stderr: str
    wall_s: float


class Device(Protocol):
    """A machine, real or emulated."""

    @property
    def uri(self) -> str:
        """As given to `--device`: `local`, `qemu:cortex-a53`."""

    @property
    def latency_kind(self) -> LatencyKind: ...

    def run(self, executable: Path, arguments: Sequence[str], timeout_s: float) -> Completed:
        """Run to its end; raises DeviceError for a crash, a timeout or a device that is not there."""


def run_process(
    command: Sequence[str], name: str, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Completed:
    """Run `command`; `name` is what messages call it. Raises DeviceError that says in words what happened."""
    started_s = time.perf_counter()
    try:
        process = subprocess.run(
            list(command),
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env=None if environment is None else {**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{name} did not end within {timeout_s:g} s and was stopped") from None
    except OSError as error:
        raise DeviceError(f"{name} cannot be started: {_explain_start(error)}") from None
    wall_s = time.perf_counter() - started_s
    stdout = process.stdout.decode(errors="replace")
    stderr = process.stderr.decode(errors="replace")
    if process.returncode < 0:
        raise DeviceError(f"{name} {_explain_signal(-process.returncode)}{_tail(stderr)}")
    return Completed(process.returncode, stdout, stderr, wall_s)


def _explain_start(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return (
            "it is built for another kind of CPU; choose a device that fits the target, such as --device qemu"
        )
    if error.errno == errno.EACCES:
        return "it is not executable, or its file system is mounted noexec"
    return error.strerror or str(error)


def _explain_signal(number: int) -> str:
    if number == signal.SIGILL:
        return (
            "executed an instruction that this CPU does not have (SIGILL); compile for a target that fits it"
        )
    if number == signal.SIGKILL:
        return "was killed (SIGKILL); out of memory is the usual reason"
    try:
        named = signal.Signals(number).name
    except ValueError:
        named = f"signal {number}"
    return f"crashed ({named}: {signal.strsignal(number) or 'unknown'})"


def _tail(stderr: str, lines: int = 5) -> str:
    kept = stderr.strip().splitlines()[-lines:]
    return "; its last words: " + " | ".join(kept) if kept else ""
