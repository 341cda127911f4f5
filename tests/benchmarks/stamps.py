"""Hashes of sources: what was made by other sources is made again."""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import haqnas
import haqnas.hw_profiles
import haqnas.kernels

_HERE = Path(__file__).parent
_NETWORKS = (_HERE.parent / "zoo", _HERE / "networks.py", _HERE / "float_model.py")
_SUFFIXES = {".py", ".c", ".h", ".S", ".inc", ".toml"}
_PEER_PACKAGES = {
    "float": ("torch", "onnx"),
    "pytorch": ("torch",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino", "nncf"),
    "litert": ("ai-edge-litert",),
}


def _hash(places: Iterable[Path], words: Iterable[str] = ()) -> str:
    files = {file for place in places for file in ([place] if place.is_file() else place.rglob("*"))}
    digest = hashlib.sha256("\0".join(words).encode())
    for path in sorted(file for file in files if file.suffix in _SUFFIXES):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def compiler_stamp() -> str:
    """Of haqnas, whose subpackages may lie beside it, and of the networks."""
    packages = (haqnas, haqnas.kernels, haqnas.hw_profiles)
    return _hash([*(Path(folder) for package in packages for folder in package.__path__), *_NETWORKS])


@cache
def peer_stamp(peer: str) -> str:
    """Of the networks, of the peer's module and of its packages' versions."""
    versions = []
    for package in _PEER_PACKAGES[peer]:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} missing")
    own = [place for place in (_HERE / "peers" / f"{peer}.py", _HERE / "tflite.py") if place.exists()]
    return _hash([*_NETWORKS, *own], versions)
