"""The CMake package, installed with haqnas: `haqnas cmake-dir` prints this folder."""

from pathlib import Path


def folder() -> Path:
    """Where `haqnasConfig.cmake` lies."""
    return Path(__file__).resolve().parent
