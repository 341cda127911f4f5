"""Fingerprint: what machine gave a figure, and the digest of that which determines timings."""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from haqnas.devices.affinity import parse_cores

# What is read of a machine: the texts of files by path, and of `uname -srm` by that name.
Facts: TypeAlias = Mapping[str, str]

UNAME = "uname -srm"
PATTERNS = (
    "/proc/cpuinfo",
    "/proc/self/status",
    "/etc/os-release",
    "/proc/device-tree/model",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "/sys/class/thermal/thermal_zone[0-9]*/type",
    "/sys/class/thermal/thermal_zone[0-9]*/temp",
)
# Arm's cores call themselves by numbers: "CPU part" of implementer 0x41 (Arm Ltd), as in Linux's cputype.h.
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
}
_CPU_ZONES = ("cpu", "x86_pkg", "soc", "k10temp", "coretemp")
_PLAUSIBLE_C = (-40.0, 150.0)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A machine as far as it can be read; what cannot be read is None, never guessed."""

    device: str  # the URI
    cpu: str | None = None
    board: str | None = None  # "Raspberry Pi 4 Model B Rev 1.4"
    arch: str | None = None
    cores: int | None = None  # online
    affinity: tuple[int, ...] | None = None  # cores that a program is pinned to `pinned_cores` of
    pinned_cores: int | None = None  # at a time; None: the system moves programs as it likes
    frequency_hz: float | None = None  # of the pinned cores, when this was read
    max_frequency_hz: float | None = None
    governor: str | None = None
    temperature_c: float | None = None
    system: str | None = None  # "Debian GNU/Linux 12 (bookworm)"
    kernel: str | None = None
    haqnas: str | None = None  # version
    emulator: str | None = None  # name and version

    @property
    def key(self) -> str:
        """Digest of what determines timings: two machines with the same key give the same times.

        Not of the temperature, the present frequency, the kernel. A CPU that does not say its name is like no other.
        """
        facts = {
            "cpu": self.cpu or f"unknown, at {self.device}",
            "board": self.board,
            "arch": self.arch,
            "pinned_cores": self.pinned_cores,
            "max_frequency_hz": self.max_frequency_hz,
            "governor": self.governor,
            "emulator": self.emulator,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def to_document(self) -> dict[str, Any]:
        """For JSON: fields that are known, and the key."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {**known, "key": self.key}


def read_facts(root: Path = Path("/")) -> Facts:
    """The facts of this machine, as far as files can be read."""
    uname = platform.uname()
    facts = {UNAME: f"{uname.system} {uname.release} {uname.machine}"}
    for pattern in PATTERNS:
        for path in root.glob(pattern.lstrip("/")):
            try:
                facts[f"/{path.relative_to(root)}"] = path.read_text(errors="replace")
            except OSError:
                continue  # a sensor without a value: it is not known
    return facts


def allowed_cores(facts: Facts) -> tuple[int, ...]:
    """Cores that a process there may use; none where that cannot be read."""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", facts.get("/proc/self/status", ""), re.MULTILINE)
    return parse_cores(found[1]) if found else ()


def max_frequencies_hz(facts: Facts) -> dict[int, float]:
    """By core, where readable."""
    return _frequencies_hz(facts, "cpuinfo_max_freq")


def describe_machine(
    device: str, facts: Facts, affinity: Sequence[int] | None, pinned_cores: int | None
) -> Fingerprint:
    """The fingerprint that the facts give; of cores that differ, those are described that programs are pinned to."""
    uname = facts.get(UNAME, "").split()
    cores = tuple(affinity) if affinity else allowed_cores(facts)
    now_hz, max_hz = _frequencies_hz(facts, "scaling_cur_freq"), max_frequencies_hz(facts)
    governors = {_read_cpufreq(facts, core, "scaling_governor") for core in cores} - {None}
    present_hz = [now_hz[core] for core in cores if core in now_hz] or _cpuinfo_frequencies_hz(facts, cores)
    return Fingerprint(
        device=device,
        cpu=cpu_name(facts.get("/proc/cpuinfo", ""), cores[-1] if cores else None),
        board=facts.get("/proc/device-tree/model", "").strip("\0 \n") or None,
        arch=uname[2] if len(uname) == 3 else None,
        cores=_count_online(facts),
        affinity=tuple(affinity) if affinity else None,
        pinned_cores=pinned_cores,
        frequency_hz=max(present_hz, default=None),
        max_frequency_hz=max((max_hz[core] for core in cores if core in max_hz), default=None),
        governor=", ".join(sorted(filter(None, governors))) or None,
        temperature_c=_temperature_c(facts),
        system=_system(facts),
        kernel=" ".join(uname[:2]) if len(uname) == 3 else None,
        haqnas=haqnas_version(),
    )


def haqnas_version() -> str | None:
    """As installed."""
    try:
        return importlib.metadata.version("haqnas")
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name(cpuinfo: str, core: int | None = None) -> str | None:
    """What a core of `/proc/cpuinfo` calls itself (the last of the machine by default); None where it does not."""
    fields: dict[str, str] = {}
    for block in _cpuinfo_blocks(cpuinfo):
        fields |= block
        if core is not None and block.get("processor") == str(core):
            break
    named = fields.get("model name") or fields.get("uarch") or fields.get("cpu model")
    implementer, part = fields.get("cpu implementer"), fields.get("cpu part")
    if named is None and part is not None:
        numbered = f"CPU part {part} of implementer {implementer}"
        return _ARM_PARTS.get(part.lower(), numbered) if implementer == "0x41" else numbered
    return named


def _cpuinfo_blocks(cpuinfo: str) -> list[dict[str, str]]:
    blocks = []
    for text in cpuinfo.split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        blocks.append({key.strip().lower(): value.strip() for key, colon, value in pairs if colon})
    return blocks


def _cpuinfo_frequencies_hz(facts: Facts, cores: Sequence[int]) -> list[float]:
    wanted = {str(core) for core in cores}
    blocks = _cpuinfo_blocks(facts.get("/proc/cpuinfo", ""))
    read = [block.get("cpu mhz", "") for block in blocks if block.get("processor") in wanted]
    return [float(text) * 1e6 for text in read if re.fullmatch(r"\d+(\.\d+)?", text)]


def _read_cpufreq(facts: Facts, core: int, name: str) -> str | None:
    return facts.get(f"/sys/devices/system/cpu/cpu{core}/cpufreq/{name}", "").strip() or None


def _frequencies_hz(facts: Facts, name: str) -> dict[int, float]:
    pattern = re.compile(rf"/sys/devices/system/cpu/cpu(\d+)/cpufreq/{name}")
    found = ((pattern.fullmatch(path), text.strip()) for path, text in facts.items())
    return {int(match[1]): float(text) * 1e3 for match, text in found if match and text.isdigit()}


def _count_online(facts: Facts) -> int | None:
    try:
        return len(parse_cores(facts["/sys/devices/system/cpu/online"]))
    except (KeyError, ValueError):
        return None


def _temperature_c(facts: Facts) -> float | None:
    """The hottest sensor of the CPU, or of all where none says that it is the CPU's."""
    by_zone: dict[str, float] = {}
    for path, text in facts.items():
        if path.startswith("/sys/class/thermal/") and path.endswith("/temp"):
            if not re.fullmatch(r"-?\d+", text.strip()):
                continue
            value_c = int(text) * 1e-3
            if _PLAUSIBLE_C[0] < value_c < _PLAUSIBLE_C[1]:
                by_zone[path.removesuffix("temp")] = value_c
    of_cpu = [
        value_c
        for zone, value_c in by_zone.items()
        if facts.get(f"{zone}type", "").strip().lower().startswith(_CPU_ZONES)
    ]
    return max(of_cpu or by_zone.values(), default=None)


def _system(facts: Facts) -> str | None:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', facts.get("/etc/os-release", ""), re.MULTILINE)
    return found[1] if found else None
