"""The machine that haqnas runs on: as a device, and what its CPU can do."""

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haqnas.devices import fingerprint
from haqnas.devices.affinity import choose_cores, reserve_cores
from haqnas.devices.device import NO_FILES, Completed, Files, LatencyKind
from haqnas.devices.fingerprint import (
    Fingerprint,
    allowed_cores,
    describe_machine,
    max_frequencies_hz,
    read_facts,
)
from haqnas.devices.process import run_process
from haqnas.devices.registry import DeviceRequest
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.hardware import ARCH_CPU_FEATURES, HostCpu

# Names in /proc/cpuinfo that differ from ours.
_CPUINFO_NAMES = {
    "abm": "lzcnt",
    "bmi1": "bmi",
    "sse4_2": "sse4.2",
    "avx512_vnni": "avx512vnni",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "asimdrdm": "rdm",
    "atomics": "lse",
    "crc32": "crc",
    "lrcpc": "rcpc",
}
_ARCHES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "riscv64": "riscv64",
}
_SYS_ARCH_PRCTL = 158  # x86-64
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """Runs executables as child processes of this one, each pinned to `threads` of the `cores`."""

    uri: str = "local"
    cores: tuple[int, ...] | None = None  # None: not pinned
    threads: int = 1
    latency_kind: LatencyKind = "measured"

    def run(
        self,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        given: Files = NO_FILES,
        wanted: Sequence[str] = (),
    ) -> Completed:
        command = [str(executable.resolve()), *arguments]
        name = f"{executable.name} on this machine"
        if self.cores is None:
            return run_process(command, name, timeout_s, given, wanted)
        with reserve_cores(self.cores, self.threads) as cores:
            return run_process(command, name, timeout_s, given, wanted, cores)

    def fingerprint(self) -> Fingerprint:
        pinned_cores = None if self.cores is None else self.threads
        return describe_machine(self.uri, read_facts(), self.cores, pinned_cores)


def open_device(request: DeviceRequest) -> LocalDevice:
    """`local`, `local?cores=2-3` (a program of N threads is pinned to N of them), `local?cores=any` (not pinned).

    Raises DeviceError for a target of another architecture.
    """
    uri, profile = request.uri, request.profile
    uri.check_options(("cores",))
    if uri.address:
        raise ConfigurationError(f"unknown device {uri.text!r}; this machine is local, or local?cores=0")
    if profile.arch != request.host.arch:
        raise DeviceError(
            f"--device local: this machine is {request.host.arch}, the target {profile.name!r} is {profile.arch}; "
            "use --device qemu"
        )
    asked = uri.options.get("cores")
    if asked == "any":
        return LocalDevice(uri.text, None, request.threads)
    facts = read_facts()
    allowed = allowed_cores(facts)
    cores = choose_cores(allowed, max_frequencies_hz(facts), asked, request.threads, uri.text)
    return LocalDevice(uri.text, cores or None, request.threads)


def parse_cpuinfo(text: str, arch: str, may_use_amx: bool) -> HostCpu:
    """The CPU described by `/proc/cpuinfo`; AMX counts only where the kernel lets this process use it."""
    words: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            words.update(value.split())
        elif key.strip() == "isa" and "v" in value.strip().split("_")[0].removeprefix("rv64"):
            words.add("v")
    features = {_CPUINFO_NAMES.get(word, word) for word in words} & ARCH_CPU_FEATURES.get(arch, frozenset())
    if not may_use_amx:
        features -= {"amx-tile", "amx-int8"}
    return HostCpu(arch, frozenset(features))


def read_host_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> HostCpu:
    """The CPU of this machine; no features where `/proc/cpuinfo` cannot be read."""
    machine = platform.machine()
    arch = _ARCHES.get(machine.lower(), machine)
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    return parse_cpuinfo(text, arch, arch == "x86_64" and "amx_tile" in text and _may_use_amx())


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What this machine's CPU calls itself, "unknown" where it does not."""
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    return fingerprint.cpu_name(text) or "unknown"


def _may_use_amx() -> bool:
    """Ask the kernel for AMX's tile state, as the binary does at start: a container may refuse it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)
