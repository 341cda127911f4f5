"""Versions: what made an artefact, so that another haqnas knows that it is another."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

_PACKAGES = ("haqnas", "torch", "brevitas", "apache-tvm", "ziglang", "numpy")


def read_versions() -> dict[str, str]:
    """Versions of what makes an artefact, and a hash of haqnas' own source, which changes without a version."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    digest = hashlib.sha256()
    package_folder = Path(__file__).parent
    for path in sorted([*package_folder.rglob("*.py"), *_kernel_sources(package_folder)]):
        digest.update(path.name.encode() + path.read_bytes())
    return {**found, "haqnas_source": digest.hexdigest()[:16]}


def is_own_make(versions: Mapping[str, str]) -> bool:
    """Whether what has `versions` was made by this very haqnas, whose kernels lay weights out as ours do."""
    return versions.get("haqnas_source") == read_versions()["haqnas_source"]


def _kernel_sources(package_folder: Path) -> list[Path]:
    """Installed, the kernels lie inside the package; in a checkout they lie beside it."""
    inside, beside = package_folder / "kernels", package_folder.parent / "kernels"
    folder = inside if inside.is_dir() else beside
    return [path for path in folder.rglob("*") if path.suffix in {".py", ".c", ".h", ".S", ".inc"}]
