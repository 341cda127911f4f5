"""Settings: what a user may ask of `compile` and `compile_file`, with its default. An option is declared here, once.

`CompileOptions` says the same to type checkers; tests/test_settings.py holds the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict

from haqnas.hardware import HardwareProfile
from haqnas.progress import Report
from haqnas.space.policy import Policy

VAL_SAMPLES = 1000  # the integer graph takes about 5 ms a CIFAR image in PyTorch
# Hashed as they were resolved, or without a part in the result.
UNHASHED = frozenset({"target", "bits", "device", "formats"} | {"fresh", "cache_folder", "progress"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of a compilation, as the user wrote them."""

    target: str | HardwareProfile = "host"
    # "8", "w4a8", "auto" (8 for now), the path of a policy.json, or a Policy
    bits: str | Policy = "8"
    val_samples: int | None = VAL_SAMPLES  # of val_data, evenly spaced, for top-1; None: all
    seed: int = 0
    threads: int = 1  # that the program may run on
    tune_time_s: float = 0.0  # to choose kernels by measurement on the device; 0: by rule
    formats: Sequence[str] = ("exe", "a")
    cc: str | None = None  # a C compiler other than zig's
    device: str | None = None  # other than the default
    compare: bool = True  # bits other than 8 with the uniform int8 build
    strict_bits: bool = False  # fail where the binary differs in anything from the bits that were requested
    fresh: bool = False  # do not go on from an earlier run
    cache_folder: Path | None = None  # where times of kernels are kept
    progress: Report | None = None  # called as each stage begins


class CompileOptions(TypedDict, total=False):
    """The keywords of `compile` and `compile_file`: the fields of `Settings`."""

    target: str | HardwareProfile
    bits: str | Policy
    val_samples: int | None
    seed: int
    threads: int
    tune_time_s: float
    formats: Sequence[str]
    cc: str | None
    device: str | None
    compare: bool
    strict_bits: bool
    fresh: bool
    cache_folder: Path | None
    progress: Report | None


def hashed_settings(settings: Settings) -> dict[str, object]:
    """The settings that tell one request from another, by name."""
    names = [entry.name for entry in fields(settings) if entry.name not in UNHASHED]
    return {name: getattr(settings, name) for name in names}
