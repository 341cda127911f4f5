"""Latency of an executable on a device: measured time, or counted instructions where the device is emulated."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from haqnas.devices.device import Device, LatencyKind
from haqnas.devices.qemu import QemuDevice
from haqnas.errors import DeviceError

_COUNTED_RUNS = 4  # instruction counts do not vary, so a few runs give the exact figure


@dataclass(frozen=True, slots=True)
class Latency:
    """One inference. Times are absent where the device is emulated: they would describe the emulator."""

    kind: LatencyKind
    device: str
    runs: int
    median_s: float | None = None
    min_s: float | None = None
    p90_s: float | None = None
    spread: float | None = None  # (90th - 10th percentile) / median
    instructions: int | None = None  # executed by the guest for one inference

    def to_document(self) -> dict[str, Any]:
        """For JSON: fields that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def measure_latency(executable: Path, device: Device, runs: int, timeout_s: float) -> Latency:
    """Time `runs` inferences, or count the instructions of one; raises DeviceError."""
    if isinstance(device, QemuDevice):
        return _count(executable, device, timeout_s)
    completed = device.run(executable, ("--bench", str(runs)), timeout_s)
    if completed.exit_code != 0:
        raise DeviceError(f"{executable.name} --bench failed on {device.uri}: {completed.stderr.strip()}")
    times_s = _read_times(completed.stdout, executable.name)
    return summarise(times_s, device.uri)


def summarise(times_s: tuple[float, ...], device: str) -> Latency:
    """The order statistics of measured times."""
    ordered = sorted(times_s)
    median_s = statistics.median(ordered)
    low_s, high_s = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.1, 0.9))
    spread = (high_s - low_s) / median_s if median_s > 0 else 0.0
    return Latency("measured", device, len(ordered), median_s, ordered[0], high_s, spread)


def _count(executable: Path, device: QemuDevice, timeout_s: float) -> Latency:
    """Two run lengths: their difference leaves out the start, loading and printing of the program."""
    few, many = (
        device.count_instructions(executable, ("--bench", str(runs)), timeout_s)
        for runs in (1, 1 + _COUNTED_RUNS)
    )
    return Latency("emulated", device.uri, _COUNTED_RUNS, instructions=round((many - few) / _COUNTED_RUNS))


def _read_times(stdout: str, name: str) -> tuple[float, ...]:
    try:
        times_ns = json.loads(stdout)["times_ns"]
        times_s = tuple(float(time_ns) * 1e-9 for time_ns in times_ns)
    except (ValueError, KeyError, TypeError):
        raise DeviceError(f"{name} --bench printed no times: {stdout[:200]!r}") from None
    if not times_s:
        raise DeviceError(f"{name} --bench made no runs")
    return times_s
