"""QEMU's user-mode emulator as a device: right results, meaningless times, exact instruction counts."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from haqnas.devices.cache_folder import default_cache_folder
from haqnas.devices.cycles import core_for
from haqnas.devices.device import NO_FILES, Completed, Files, LatencyKind
from haqnas.devices.fingerprint import Fingerprint, haqnas_version
from haqnas.devices.llvm_mca import Block
from haqnas.devices.plugins import plugin
from haqnas.devices.process import run_process
from haqnas.devices.registry import DeviceRequest
from haqnas.errors import DeviceError
from haqnas.hardware import CoreCosts

_BLOCKS_SOURCE = Path(__file__).with_name("count_blocks.c")
_MARKS_SOURCE = Path(__file__).with_name("count_marks.c")
_MARK_LINE = re.compile(r"^haqnas-mark (\d+)$", re.MULTILINE)
_MARK_CALLS = {"aarch64": 173, "riscv64": 173, "x86_64": 110}  # Linux's number of getppid
_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class QemuDevice:
    """`program -cpu cpu` for every run."""

    program: str  # such as qemu-aarch64
    cpu: str
    core: CoreCosts | None = None  # that cycles are modelled of; None: of none
    cache_folder: Path = field(default_factory=default_cache_folder)
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

    def count_blocks(self, executable: Path, timeout_s: float, threads: int = 1) -> dict[Block, int]:
        """How often the guest executes each block of instructions in one inference; raises DeviceError."""
        alone = ("--threads", "1") if threads > 1 else ()  # waiting threads would be counted too
        return self._count(executable, ("--repeat", "2", *alone), timeout_s, f",mark={self._mark_call()}")

    def count_instructions(self, executable: Path, arguments: Sequence[str], timeout_s: float) -> int:
        """Instructions that the guest executes in the whole run of any program; raises DeviceError."""
        executions = self._count(executable, arguments, timeout_s, "")
        return sum(times * len(block) for block, times in executions.items())

    def _count(
        self, executable: Path, arguments: Sequence[str], timeout_s: float, marks: str
    ) -> dict[Block, int]:
        source = plugin(_BLOCKS_SOURCE, self.cache_folder)
        with tempfile.TemporaryDirectory(prefix="haqnas-") as folder:
            counted = Path(folder) / "blocks"
            options = ("-plugin", f"{source},out={counted}{marks}")
            completed = self._run(executable, arguments, timeout_s, options)
            text = counted.read_text() if counted.exists() else ""
        if completed.exit_code != 0 or not text.endswith("end\n"):
            raise DeviceError(
                f"{self.program} counted no instructions of {executable.name} (exit code {completed.exit_code}): "
                f"{completed.stderr.strip()[-500:]}"
            )
        return read_blocks(text)

    def count_marks(self, executable: Path, arguments: Sequence[str], timeout_s: float) -> tuple[int, ...]:
        """Instructions executed at each mark of a kernel set; raises DeviceError."""
        source = plugin(_MARKS_SOURCE, self.cache_folder)
        with tempfile.TemporaryDirectory(prefix="haqnas-") as folder:
            log = Path(folder) / "log"
            options = ("-plugin", f"{source},mark={self._mark_call()}", "-d", "plugin", "-D", str(log))
            completed = self._run(executable, arguments, timeout_s, options)
            marks = tuple(map(int, _MARK_LINE.findall(log.read_text() if log.exists() else "")))
        if completed.exit_code != 0:
            raise DeviceError(
                f"{executable.name} failed on {self.uri} (exit code {completed.exit_code}): "
                f"{completed.stderr.strip()[-500:]}"
            )
        return marks

    def _mark_call(self) -> int:
        return _MARK_CALLS[self.program.removeprefix("qemu-")]

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
    cpu = uri.address or (emulator.cpu if emulator else "max")
    return QemuDevice(program, cpu, core_for(request.profile, cpu))


def read_blocks(text: str) -> dict[Block, int]:
    """What the plugin writes: instructions of each block, and how often it was executed."""
    lines = (line.split() for line in text.splitlines() if line != "end")
    return {tuple(words[1:]): int(words[0]) for words in lines}
