"""What `haqnas doctor` looks at: Python, packages, compiler, emulators, the way to boards, the CPU."""

import importlib
import importlib.metadata
import shutil
import sys
from dataclasses import dataclass

from haqnas.devices.llvm_mca import find_mca
from haqnas.devices.local import read_host_cpu
from haqnas.devices.registry import known_transports
from haqnas.errors import HaqnasError
from haqnas.hardware import find_profile

_PACKAGES = {  # distribution: (module, what haqnas does with it)
    "torch": ("torch", "traces models"),
    "brevitas": ("brevitas", "quantizes"),
    "apache-tvm": ("tvm", "compiles kernels"),
    "ziglang": ("ziglang", "links"),
}
_EMULATORS = {"qemu-aarch64": "64-bit Arm", "qemu-riscv64": "64-bit RISC-V"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is there or not; the detail of what is missing says what to type."""

    name: str
    is_there: bool
    is_required: bool
    detail: str


def examine() -> tuple[Finding, ...]:
    """Look at everything; never raises."""
    packages = (_package(name, module, purpose) for name, (module, purpose) in _PACKAGES.items())
    emulators = (_emulator(program, machine) for program, machine in _EMULATORS.items())
    return (_python(), *packages, *emulators, _mca(), _ssh(), _devices(), _cpu(), _host())


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), True, f"{version} (3.11 or newer is needed)")


def _package(name: str, module: str, purpose: str) -> Finding:
    try:
        importlib.import_module(module)
        version = importlib.metadata.version(name)
    except Exception as error:  # a broken installation raises anything; doctor's work is to say so
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(name, False, True, f"{purpose}; {reason}; type: pip install {name}")
    return Finding(name, True, True, f"{version}, {purpose}")


def _emulator(program: str, machine: str) -> Finding:
    path = shutil.which(program)
    detail = path or f"runs {machine} binaries here; type: apt install qemu-user"
    return Finding(program, path is not None, False, detail)


def _mca() -> Finding:
    try:
        found = find_mca("aarch64", "cortex-a72")
    except HaqnasError as error:
        return Finding("llvm-mca", False, False, str(error))
    detail = (
        f"{found.version}, models cycles under qemu"
        if found
        else "models cycles better; type: apt install llvm"
    )
    return Finding("llvm-mca", found is not None, False, detail)


def _ssh() -> Finding:
    path = shutil.which("ssh")
    return Finding("ssh", path is not None, False, path or "reaches boards; type: apt install openssh-client")


def _devices() -> Finding:
    try:
        schemes = known_transports()
    except HaqnasError as error:
        return Finding("devices", False, True, str(error))
    return Finding("devices", True, True, f"--device knows {', '.join(sorted(schemes))} (docs/devices.md)")


def _cpu() -> Finding:
    host = read_host_cpu()
    features = ", ".join(sorted(host.features)) or "no features that kernels use"
    return Finding("cpu", True, False, f"{host.arch}: {features}")


def _host() -> Finding:
    try:
        profile = find_profile("host", read_host_cpu())
    except HaqnasError as error:
        return Finding("target host", False, False, str(error))
    return Finding("target host", True, False, f"stands for {profile.name}")
