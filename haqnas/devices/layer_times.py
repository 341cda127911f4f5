"""Times of layers inside a network: run an executable that was linked to tell the time of each of its kernel calls."""

import json
from pathlib import Path

from haqnas.devices.device import Device
from haqnas.errors import ProgramError

TIMEOUT_S = 600.0


def run_layers(executable: Path, runs: int, device: Device) -> dict[str, float]:
    """Seconds of each layer: the medians of `runs` runs of all its kernel calls, added up.

    Raises ProgramError where the executable fails or prints no times, DeviceError where the device fails.
    """
    completed = device.run(executable, ("--layers", str(runs)), TIMEOUT_S)
    name = f"{executable.name} --layers"
    if completed.exit_code != 0:
        raise ProgramError(f"{name} failed on {device.uri}: {completed.stderr.strip()}")
    sums: dict[str, float] = {}
    try:
        for call in json.loads(completed.stdout)["calls"]:
            sums[call["layer"]] = sums.get(call["layer"], 0.0) + call["median_ns"] * 1e-9
    except (ValueError, KeyError, TypeError):
        raise ProgramError(f"{name} on {device.uri} printed no times: {completed.stdout[:200]!r}") from None
    return sums
