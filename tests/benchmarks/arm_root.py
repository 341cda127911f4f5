"""A folder with an Arm Python and LiteRT's Arm wheel, to run LiteRT under qemu-aarch64 beside our binaries.

Made of Debian's packages (apt-get download, nothing is installed) and of wheels (pip download).
"""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.session import UnsupportedError

_SUITE = "bookworm"  # its python3.11 fits the wheels asked for below
_PYTHON = "3.11"
_PACKAGES = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11-minimal",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libssl3",
)
_WHEELS = ("ai-edge-litert", "numpy")
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# XNNPACK reads the kind of core from /proc/cpuinfo, which under qemu is that of the x86 host: it would crash.
_CPUINFO = """processor\t: 0
BogoMIPS\t: 100.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
_CORES = {
    "cortex-a72": ("fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "0xd08"),
    "cortex-a76": (
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        "0xd0b",
    ),
}


def make_root(folder: Path) -> Path:
    """Fill `folder`, once; raises UnsupportedError where a tool or the network is missing."""
    root, done = folder / "root", folder / "complete"
    if done.exists():
        return root
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True)
    for package in _download_packages(folder / "apt"):
        _run("dpkg-deb", "-x", str(package), str(root))
    for wheel in _download_wheels(folder / "wheels"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "wheels")
    done.write_text("")
    return root


def set_core(root: Path, cpu: str) -> None:
    """Describe the emulated core to the programs in `root`."""
    features, part = _CORES[cpu]
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(_CPUINFO.format(features=features, part=part))


def environment(root: Path) -> dict[str, str]:
    """What qemu-aarch64 reads: where the guest's libraries lie, and the guest's own variables."""
    guest = {"PYTHONPATH": root / "wheels", "PYTHONHOME": root / "usr", "PYTHONHASHSEED": "0"}
    pairs = ",".join(f"{name}={value}" for name, value in guest.items())
    return {"QEMU_LD_PREFIX": str(root), "QEMU_SET_ENV": pairs}


def python(root: Path) -> Path:
    return root / "usr" / "bin" / f"python{_PYTHON}"


def _run(*command: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise UnsupportedError(f"{command[0]} failed: {str(said).strip()[-300:]}") from None


def _download_packages(state: Path) -> list[Path]:
    """Arm packages by apt with lists and a status of its own: the host's are not touched."""
    archives = state / "archives"
    for folder in (state / "lists" / "partial", archives / "partial"):
        folder.mkdir(parents=True)
    (state / "status").write_text("")
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] http://deb.debian.org/debian {_SUITE} main\n")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "download", *_PACKAGES, cwd=archives)
    return sorted(archives.glob("*.deb"))


def _download_wheels(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    wanted = [f"{name}=={version(name)}" for name in _WHEELS]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", *platforms, "--python-version", _PYTHON]
    _run(sys.executable, "-m", "pip", "download", *options, "-d", str(folder), *wanted)
    return sorted(folder.glob("*.whl"))
