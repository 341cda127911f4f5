"""Runs programs for AMX on CPUs that lack it: builds `tile_emulator.c`, says when it is needed.

It executes the tile instructions only; the vectors of such a program run on the CPU itself. The program must not look
for AMX at its start, since it would rightly not find it.
"""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from haqnas.devices.local import read_host_cpu
from haqnas.hardware import HardwareProfile

TILE_FEATURES = frozenset({"amx-tile", "amx-int8"})


@functools.cache
def host_features() -> frozenset[str]:
    """What this CPU can do."""
    return read_host_cpu().features


def is_emulated(profile: HardwareProfile) -> bool:
    """Whether the profile's programs run here, but only with tile instructions emulated."""
    return bool(missing_features(profile)) and missing_features(profile) <= TILE_FEATURES


def missing_features(profile: HardwareProfile) -> frozenset[str]:
    """CPU features of the profile that this machine lacks."""
    return frozenset(profile.cpu_features) - host_features()


@functools.cache
def _built() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """The emulator in a folder that lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="tile_emulator")
    program = Path(folder.name) / "tile_emulator"
    source = Path(__file__).with_suffix(".c")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-target", "x86_64-linux-musl"]
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *flags, str(source), "-o", str(program)],
        check=True,
        timeout=600,
    )
    return folder, program


def tile_emulator() -> Path:
    """The emulator, built at its first use in this process."""
    return _built()[1]
