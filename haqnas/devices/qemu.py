"""QEMU's user-mode emulator as a device: right results, meaningless times, exact instruction counts."""

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haqnas.devices.device import NO_FILES, Completed, Files, LatencyKind
from haqnas.devices.fingerprint import Fingerprint, haqnas_version
from haqnas.devices.process import run_process
from haqnas.devices.registry import DeviceRequest
from haqnas.errors import DeviceError

_PLUGIN_SOURCE = Path(__file__).with_name("count_instructions.c")
_COUNT_LINE = re.compile(r"^haqnas-instructions (\d+)$", re.MULTILINE)
_MARKS_SOURCE = Path(__file__).with_name("count_marks.c")
_MARK_LINE = re.compile(r"^haqnas-mark (\d+)$", re.MULTILINE)
_MARK_CALLS = {"aarch64": 173, "riscv64": 173, "x86_64": 110}  # Linux's number of getppid
_COMPILE_TIMEOUT_S = 120.0
_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class QemuDevice:
    """`program -cpu cpu` for every run."""

    program: str  # such as qemu-aarch64
    cpu: str
    latency_kind: LatencyKind = "emulated"

    @property
    def uri(self) -> str:
        return f"qemu:{self.cpu}"

    def run(
        self,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        given: Files = NO_FILES,
        wanted: Sequence[str] = (),
    ) -> Completed:
        return self._run(executable, arguments, timeout_s, (), given, wanted)

    def fingerprint(self) -> Fingerprint:
        """The emulated CPU and the emulator: nothing of this machine, which the figures do not depend on."""
        completed = run_process([self.program, "--version"], self.program, _VERSION_TIMEOUT_S)
        lines = completed.stdout.splitlines()
        return Fingerprint(
            device=self.uri,
            cpu=self.cpu,
            arch=self.program.removeprefix("qemu-"),
            haqnas=haqnas_version(),
            emulator=lines[0].strip() if lines else None,
        )

    def count_instructions(self, executable: Path, arguments: Sequence[str], timeout_s: float) -> int:
        """Instructions that the guest executes in the whole run; raises DeviceError."""
        with tempfile.TemporaryDirectory(prefix="haqnas-") as folder:
            plugin, log = _compile_plugin(Path(folder), _PLUGIN_SOURCE), Path(folder) / "log"
            options = ("-plugin", str(plugin), "-d", "plugin", "-D", str(log))
            completed = self._run(executable, arguments, timeout_s, options)
            match = _COUNT_LINE.search(log.read_text() if log.exists() else "")
        if completed.exit_code != 0 or match is None:
            raise DeviceError(
                f"{self.program} counted no instructions of {executable.name} (exit code {completed.exit_code}): "
                f"{completed.stderr.strip()[-500:]}"
            )
        return int(match[1])

    def count_marks(self, executable: Path, arguments: Sequence[str], timeout_s: float) -> tuple[int, ...]:
        """Instructions executed at each mark of a kernel set; raises DeviceError."""
        with tempfile.TemporaryDirectory(prefix="haqnas-") as folder:
            plugin, log = _compile_plugin(Path(folder), _MARKS_SOURCE), Path(folder) / "log"
            number = _MARK_CALLS[self.program.removeprefix("qemu-")]
            options = ("-plugin", f"{plugin},mark={number}", "-d", "plugin", "-D", str(log))
            completed = self._run(executable, arguments, timeout_s, options)
            marks = tuple(map(int, _MARK_LINE.findall(log.read_text() if log.exists() else "")))
        if completed.exit_code != 0:
            raise DeviceError(
                f"{executable.name} failed on {self.uri} (exit code {completed.exit_code}): "
                f"{completed.stderr.strip()[-500:]}"
            )
        return marks

    def _run(
        self,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        options: Sequence[str],
        given: Files = NO_FILES,
        wanted: Sequence[str] = (),
    ) -> Completed:
        program = shutil.which(self.program)
        if program is None:
            raise DeviceError(
                f"{self.program} is not installed, so {executable.name} cannot run here; "
                "type: apt install qemu-user"
            )
        command = [program, "-cpu", self.cpu, *options, str(executable.resolve()), *arguments]
        name = f"{executable.name} under {self.program} -cpu {self.cpu}"
        completed = run_process(command, name, timeout_s, given, wanted)
        if completed.exit_code == 1 and "unable to find CPU model" in completed.stderr:
            raise DeviceError(
                f"{self.program} has no CPU model {self.cpu!r}; `{self.program} -cpu help` lists them"
            )
        return completed


def open_device(request: DeviceRequest) -> QemuDevice:
    """`qemu` with the CPU that the profile names, or `qemu:CPU`; raises DeviceError where it is not installed."""
    uri, emulator = request.uri, request.profile.emulator
    uri.check_options(())
    program = emulator.program if emulator else f"qemu-{request.profile.arch}"
    if shutil.which(program) is None:
        raise DeviceError(f"--device {uri.text}: {program} is not installed; type: apt install qemu-user")
    return QemuDevice(program, uri.address or (emulator.cpu if emulator else "max"))


def _compile_plugin(folder: Path, source: Path) -> Path:
    """Build the counting plugin for this machine's QEMU with the C compiler that comes with haqnas."""
    plugin = folder / f"{source.stem}.so"
    compiler = [sys.executable, "-m", "ziglang", "cc"]
    options = ["-shared", "-fPIC", "-O2", "-o", str(plugin), str(source)]
    completed = run_process([*compiler, *options], "the compiler of the counting plugin", _COMPILE_TIMEOUT_S)
    if completed.exit_code != 0:
        raise DeviceError(f"the counting plugin does not compile: {completed.stderr.strip()[-500:]}")
    return plugin
