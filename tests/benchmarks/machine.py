"""What the timings were made on."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PACKAGES = (
    "haqnas",
    "torch",
    "brevitas",
    "apache-tvm",
    "ziglang",
    "onnxruntime",
    "openvino",
    "nncf",
    "ai-edge-litert",
    "numpy",
)


def cores(count: int) -> tuple[int, ...]:
    """The last `count` cores that this process may use: the first one serves most interrupts."""
    usable = sorted(os.sched_getaffinity(0))
    if count > len(usable):
        raise SystemExit(f"{count} threads need {count} cores, but this process may use {len(usable)}")
    return tuple(usable[-count:])


def come_first(chosen: Sequence[int]) -> None:
    """Pin this process to cores, and let it go before others where that is allowed (root).

    Everybody who is timed does this. Where others use the machine, the scheduler favours processes that start and end
    over those that stay, ours over peers, and medians would say nothing.
    """
    os.sched_setaffinity(0, chosen)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)


@contextmanager
def going_first() -> Iterator[None]:
    """What this thread starts goes before others where that is allowed (root), as `come_first`."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def describe() -> dict[str, Any]:
    """CPU, kernel, load and versions."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return {
        "cpu": fields.get("model name") or fields.get("CPU part") or platform.machine(),
        "cpu_family_model_stepping": [fields.get(key) for key in ("cpu family", "model", "stepping")],
        "flags": (fields.get("flags") or fields.get("Features") or "").split(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": load_average(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def load_average() -> tuple[float, float, float]:
    """Of the last 1, 5 and 15 minutes: what else ran while the benchmark did."""
    return os.getloadavg()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
