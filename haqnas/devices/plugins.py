"""QEMU plugins: compiled once with the C compiler that comes with haqnas, and kept in the cache folder."""

import hashlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from pathlib import Path

from haqnas.devices.process import run_process
from haqnas.errors import ConfigurationError, DeviceError

_HEADER = Path(__file__).with_name("qemu_plugin.h")
_COMPILE_TIMEOUT_S = 120.0


def plugin(source: Path, cache_folder: Path) -> Path:
    """The plugin built from `source`; its name holds a hash of all that went in, so several versions live side by side.

    Safe with several processes: each compiles for itself and renames. Raises DeviceError, ConfigurationError where the
    folder cannot be written.
    """
    compiled = cache_folder / "plugins" / f"{source.stem}-{_hash(source)}.so"
    if compiled.exists():
        return compiled
    try:
        compiled.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=compiled.parent) as folder:
            made = Path(folder) / compiled.name
            _compile(source, made)
            made.replace(compiled)
    except OSError as error:
        raise ConfigurationError(
            f"the plugin that counts instructions is kept in {compiled.parent}, which cannot be written: "
            f"{error.strerror}; name another folder in XDG_CACHE_HOME"
        ) from None
    return compiled


def _hash(source: Path) -> str:
    parts = (source.read_bytes(), _HEADER.read_bytes(), importlib.metadata.version("ziglang").encode())
    return hashlib.sha256(b"\0".join((*parts, platform.machine().encode()))).hexdigest()[:16]


def _compile(source: Path, made: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-shared",
        "-fPIC",
        "-O2",
        "-I",
        os.fspath(_HEADER.parent),
    ]
    completed = run_process(
        [*command, "-o", str(made), str(source)], "the compiler of the counting plugin", _COMPILE_TIMEOUT_S
    )
    if completed.exit_code != 0:
        raise DeviceError(f"the counting plugin does not compile: {completed.stderr.strip()[-500:]}")
