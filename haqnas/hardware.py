"""HardwareProfile: what a target machine is and may execute, read from a TOML file; and the choice for `host`.

A profile is data: `hw_profiles/*.toml` ship with haqnas, and a user adds a target by writing such a file
(`hw_profiles/README.md` lists every field with its unit).
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from haqnas.errors import ConfigurationError
from haqnas.quantspec import QuantSpec

SCHEMA = 1

# Kernel instruction sets, best first, and the CPU features that their kernels execute.
# "portable" is plain C-like code: every profile has it, so no file lists it.
ISA_CPU_FEATURES: Mapping[str, tuple[str, ...]] = {
    "amx-int8": ("amx-tile", "amx-int8", "avx512f", "avx512bw", "avx512vl"),
    "avx512-vbmi": ("avx512vbmi", "avx512f", "avx512bw", "avx512vl"),
    "avx512-vnni": ("avx512vnni", "avx512f", "avx512bw", "avx512vl"),
    "avx2": ("avx2",),
    "neon-i8mm": ("asimd", "i8mm"),
    "neon-dotprod": ("asimd", "dotprod"),
    "neon": ("asimd",),
    "rvv": ("v",),
}

# What the runtime can look for, by the first part of the triple; a test compares it with the runtime's own table.
# fmt: off
ARCH_CPU_FEATURES: Mapping[str, frozenset[str]] = {
    "x86_64": frozenset(
        (
            "sse4.2", "popcnt", "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "avx512f",
            "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni", "amx-tile", "amx-int8",
        )
    ),
    "aarch64": frozenset(
        (
            "asimd", "bf16", "crc", "dotprod", "fcma", "fp16", "i8mm", "jscvt", "lse", "rcpc", "rdm", "sve",
        )
    ),
    "riscv64": frozenset(("v",)),
}
# fmt: on

# A TOML array or table header line, and a key at the start of a line: to point at the line of a wrong field.
_HEADER = re.compile(r"\s*\[\[?\s*([^\]\s]+)\s*\]")
_KEY = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*=")


@dataclass(frozen=True, slots=True)
class Emulator:
    """The user-mode emulator that stands in for the machine."""

    program: str  # looked up in PATH, such as qemu-aarch64
    cpu: str  # its CPU model, such as cortex-a53; must have the profile's cpu_features


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine, where known."""

    cores: int | None = None
    l1d_bytes: int | None = None  # first-level data cache of one core
    l2_bytes: int | None = None
    l3_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CoreCosts:
    """What a core spends on instructions, where llvm-mca is not there or does not know it.

    `width`: instructions that it starts in a cycle. The others: cycles for which one instruction of the class keeps
    the units of its kind busy: integer (alu, mul, div), branches, memory, vectors (simd ...).
    """

    core: str  # LLVM's name, which llvm-mca is asked for first
    width: float
    alu: float
    mul: float
    div: float
    branch: float
    load: float
    store: float
    vector_load: float
    vector_store: float
    simd: float
    simd_mul: float
    simd_dot: float
    other: float


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """A target. The object code may use exactly what `cpu` and `features` say; `cpu_features` is checked at start."""

    name: str
    description: str
    triple: str  # architecture-system-libc as the C compiler takes it: aarch64-linux-musl
    cpu: str  # LLVM's name of the CPU
    features: tuple[str, ...] = ()  # LLVM features switched on or off: "+dotprod", "-sve"
    isas: tuple[str, ...] = ()  # instruction sets whose kernels may be chosen, best first; then "portable"
    cpu_features: tuple[str, ...] = ()  # what the binary looks for at start
    bits: tuple[
        str, ...
    ] = ()  # choices of a search, such as "w4a8": exact and worth choosing; none: not profiled
    emulator: Emulator | None = None
    machine: Machine = Machine()
    cycles: CoreCosts | None = None  # for modelled cycles under an emulator

    @property
    def arch(self) -> str:
        """`x86_64`, `aarch64` or `riscv64`."""
        return self.triple.split("-")[0]

    @property
    def llvm_triple(self) -> str:
        """The triple for LLVM: object files do not depend on the C library, and LLVM knows `gnu` everywhere."""
        return f"{self.arch}-linux-gnu"


@dataclass(frozen=True, slots=True)
class HostCpu:
    """The CPU that this process runs on: architecture and the features that it may use."""

    arch: str
    features: frozenset[str]

    def can_run(self, profile: HardwareProfile) -> bool:
        return self.arch == profile.arch and self.features.issuperset(profile.cpu_features)


def load_profile(path: Path) -> HardwareProfile:
    """Read one profile without its latency table.

    Raises ConfigurationError that names file, line and field, and the way out.
    """
    text = head_of(read_text(path))
    document = _parse(path, text)
    if document.pop("schema", None) != SCHEMA:
        raise ConfigurationError(
            f"{_place(path, text, ('schema',))}: a profile starts with schema = {SCHEMA}; see hw_profiles/README.md"
        )
    profile = _validated(path, text, document)
    problem = _contradiction(profile)
    if problem:
        field, message = problem
        raise ConfigurationError(f"{_place(path, text, field)}: {message}")
    return profile


def read_measured(path: Path) -> dict[str, Any] | None:
    """The table `[measured]` of a profile as it stands in the file, None where it has none.

    Raises ConfigurationError.
    """
    text = read_text(path)
    if head_of(text) == text:
        return None
    measured = _parse(path, text).get("measured")
    return measured if isinstance(measured, dict) else None


def head_of(text: str) -> str:
    """A profile's text before its latency table, which comes last and is long: most readers do not need it."""
    found = re.search(r"^\[measured", text, re.MULTILINE)
    return text[: found.start()] if found else text


def read_text(path: Path) -> str:
    """The text of a profile; raises ConfigurationError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not a profile: it must be UTF-8 text in TOML") from None
    except OSError as error:
        raise ConfigurationError(f"the profile {path} cannot be read: {error.strerror}") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}; see hw_profiles/README.md") from None


def _validated(path: Path, text: str, document: Mapping[str, Any]) -> HardwareProfile:
    """The document with its types checked; all problems of the file are told at once."""
    try:
        # Through JSON, because strict mode takes a list for a tuple only there.
        return _ADAPTER.validate_json(json.dumps(document, default=str), strict=True, extra="forbid")
    except ValidationError as error:
        problems = [_explain(path, text, dict(problem)) for problem in error.errors(include_url=False)]
        raise ConfigurationError("\n".join(problems)) from None


def _explain(path: Path, text: str, problem: Mapping[str, Any]) -> str:
    location = tuple(str(part) for part in problem["loc"])
    field = ".".join(location)
    place = _place(path, text, location)
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        known = _FIELDS[location[0] if len(location) > 1 else ""]
        close = difflib.get_close_matches(location[-1], known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(known)}"
        return f"{place}: unknown field {field!r}; {hint}"
    if problem["type"] in {"missing", "missing_argument"}:
        return f"{place}: the field {field!r} is missing; see hw_profiles/README.md"
    message = str(problem["msg"]).removeprefix("Input ")
    return f"{place}: {field!r} {message}, but got {problem['input']!r}"


def _place(path: Path, text: str, field: tuple[str, ...]) -> str:
    """`file:line` of the field, or of its table, or the file alone."""
    table = ""
    table_line: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1]
            table_line = number if field[0] == table else table_line
        elif (key := _KEY.match(line)) and (
            (table == "" and key[1] == field[0]) or (table == field[0] and key[1] in field[1:2])
        ):
            return f"{path}:{number}"
    return f"{path}:{table_line}" if table_line else str(path)


def _contradiction(profile: HardwareProfile) -> tuple[tuple[str, ...], str] | None:
    """The first rule between fields that the profile breaks, as (field, message)."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", profile.name):
        return ("name",), f"a name has lower-case letters, digits, '.', '_' and '-', but got {profile.name!r}"
    detectable = ARCH_CPU_FEATURES.get(profile.arch)
    if detectable is None or not re.fullmatch(r"\w+-linux-musl\w*", profile.triple):
        legal = ", ".join(f"{arch}-linux-musl" for arch in ARCH_CPU_FEATURES)
        return ("triple",), f"'triple' must be one of {legal}, but got {profile.triple!r}"
    for feature in profile.features:
        if not re.fullmatch(r"[+-][\w.-]+", feature):
            return ("features",), f"a feature is written '+dotprod' or '-sve', but got {feature!r}"
    for feature in profile.cpu_features:
        if feature not in detectable:
            legal = ", ".join(sorted(detectable))
            return ("cpu_features",), f"the runtime on {profile.arch} can look for {legal}, not {feature!r}"
    return _contradiction_of_lists(profile)


def _contradiction_of_lists(profile: HardwareProfile) -> tuple[tuple[str, ...], str] | None:
    """The same for instruction sets, sizes and bits."""
    for isa in profile.isas:
        if isa not in ISA_CPU_FEATURES:
            hint = _closest(isa, ISA_CPU_FEATURES)
            return ("isas",), f"unknown instruction set {isa!r}; {hint} ('portable' is always there)"
        missing = [name for name in ISA_CPU_FEATURES[isa] if name not in profile.cpu_features]
        if missing:
            needed = ", ".join(missing)
            return (
                "isas",
            ), f"{isa!r} kernels execute {needed}: add it to 'cpu_features', or take {isa!r} out"
    for size_field in Machine.__dataclass_fields__:
        value = getattr(profile.machine, size_field)
        if value is not None and value <= 0:
            return ("machine", size_field), f"'machine.{size_field}' must be above zero, but got {value}"
    for cost in CoreCosts.__dataclass_fields__:
        cycles = getattr(profile.cycles, cost, None)
        if cost != "core" and cycles is not None and not 0 < cycles < 1000:
            return ("cycles", cost), f"'cycles.{cost}' must be above zero and below 1000, but got {cycles:g}"
    for bits in profile.bits:
        try:
            QuantSpec.parse(bits)
        except ConfigurationError as error:
            return ("bits",), str(error)
    return None


def _closest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    listed = f"known are {', '.join(names)}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def shipped_profiles(folder: Path | None = None) -> tuple[HardwareProfile, ...]:
    """All profiles that ship with haqnas (or lie in `folder`), by name; raises ConfigurationError."""
    source = folder or Path(str(resources.files("haqnas.hw_profiles")))
    return tuple(load_profile(path) for path in sorted(source.glob("*.toml")))


def host_profile(profiles: Iterable[HardwareProfile], host: HostCpu) -> HardwareProfile:
    """The best profile that `host` can run: best instruction set first, then most features.

    Raises ConfigurationError where none fits.
    """
    runnable = [profile for profile in profiles if host.can_run(profile)]
    if not runnable:
        raise ConfigurationError(
            f"no shipped profile fits this machine ({host.arch}; {', '.join(sorted(host.features)) or 'no features'}); "
            "write one (hw_profiles/README.md) and give its path as --target"
        )
    order = [*ISA_CPU_FEATURES, "portable"]

    def rank(profile: HardwareProfile) -> tuple[int, int, str]:
        best = min(order.index(isa) for isa in (*profile.isas, "portable"))
        # The plain build of an instruction set before one tuned for a CPU that this machine may not be.
        return (
            best,
            -len(profile.cpu_features),
            "" if profile.cpu.startswith(("generic", "x86-64")) else profile.name,
        )

    return min(runnable, key=rank)


def profile_path(target: str, host: HostCpu, folder: Path | None = None) -> Path:
    """The file of the profile called `target`, as `find_profile`."""
    if target.endswith(".toml") or "/" in target:
        return Path(target)
    name = find_profile(target, host, folder).name
    source = folder or Path(str(resources.files("haqnas.hw_profiles")))
    return next(path for path in sorted(source.glob("*.toml")) if load_profile(path).name == name)


def find_profile(target: str, host: HostCpu, folder: Path | None = None) -> HardwareProfile:
    """The profile called `target`: `host`, a shipped name, or the path of a user's file (`*.toml`).

    Raises ConfigurationError with the closest known name.
    """
    if target.endswith(".toml") or "/" in target:
        return load_profile(Path(target))
    profiles = shipped_profiles(folder)
    if target == "host":
        return host_profile(profiles, host)
    by_name = {profile.name: profile for profile in profiles}
    if target not in by_name:
        raise ConfigurationError(
            f"unknown target {target!r}; {_closest(target, ['host', *by_name])}, or the path of your own profile.toml"
        )
    return by_name[target]


_ADAPTER = TypeAdapter(HardwareProfile)
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "": ("schema", *HardwareProfile.__dataclass_fields__),
    "emulator": tuple(Emulator.__dataclass_fields__),
    "machine": tuple(Machine.__dataclass_fields__),
    "cycles": tuple(CoreCosts.__dataclass_fields__),
}
