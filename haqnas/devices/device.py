"""Device: where an executable runs. What a transport must offer, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from haqnas.devices.fingerprint import Fingerprint

# measured: wall time of the machine itself. emulated: its time means nothing, only instructions count.
LatencyKind = Literal["measured", "emulated"]
Files = Mapping[str, bytes]  # by path relative to the program's working folder

NO_FILES: Files = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended by itself; what its exit code means is the caller's business.

    `files` are those of the wanted ones that it wrote.
    """

    exit_code: int
    stdout: str
    stderr: str
    wall_s: float
    files: Files = field(default_factory=dict)


class Device(Protocol):
    """A machine, real or emulated. One that holds a connection closes it when it is collected, or at exit."""

    @property
    def uri(self) -> str:
        """As given to `--device`: `local`, `qemu:cortex-a53`, `ssh://pi@board`."""

    @property
    def latency_kind(self) -> LatencyKind: ...

    def run(
        self,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        given: Files = NO_FILES,
        wanted: Sequence[str] = (),
    ) -> Completed:
        """Run to its end in a new folder that holds the files `given`; files `wanted` are brought back.

        Raises ProgramError where the program crashed, DeviceError where it did not end in time or the device failed.
        Whatever happens, no process and no file of the run is left.
        """

    def fingerprint(self) -> Fingerprint:
        """What is known about the machine; raises DeviceError where it cannot be reached."""
