"""What `inspect` tells of an artefact's layers: the manifest's rows, what the binary really holds, and times."""

from dataclasses import dataclass
from typing import Literal

from haqnas.artifact import Artifact, check_files, load_reference, read_back
from haqnas.codegen.program import Program
from haqnas.devices.local import read_host_cpu
from haqnas.errors import ConfigurationError
from haqnas.hardware import HardwareProfile, find_profile, profile_path
from haqnas.latency_table import LatencyTable, predict_layers, read_table
from haqnas.layer_rows import time_layers
from haqnas.manifest import LayerRow
from haqnas.readback import FoundLayer
from haqnas.versions import is_own_make


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """One amount a row, None where a row has no call of its own; and what the amounts are."""

    amounts: tuple[float | None, ...]
    kind: Literal["measured", "predicted"]
    unit: Literal["s", "instructions"]
    source: str  # the device, or the table


@dataclass(frozen=True, slots=True)
class Inspection:
    """An artefact's layers. `found` has one entry a row: None for what has no weights, or could not be read."""

    rows: tuple[LayerRow, ...]
    found: tuple[FoundLayer | None, ...]
    is_read: bool  # False: another haqnas made it
    times: LayerTimes | None


def inspect(artifact: Artifact, device: str | None = None) -> Inspection:
    """Read the binaries of an artefact back, and time its layers: on `device`, else by the table of its profile.

    Raises VerificationError that names the layer where binary, integer graph and manifest differ; ConfigurationError,
    ProgramError, DeviceError as `time_layers`.
    """
    check_files(artifact)
    rows = artifact.manifest.layers
    if not is_own_make(artifact.manifest.versions):
        measured = _measured(artifact, device) if device is not None else None
        return Inspection(rows, (None,) * len(rows), False, measured)
    back = read_back(artifact, load_reference(artifact.directory))
    layers = iter(back.layers)
    found = tuple(next(layers) if row.emitted is not None else None for row in rows)
    times = _measured(artifact, device) if device is not None else _predicted(artifact, back.program)
    return Inspection(rows, found, True, times)


def _measured(artifact: Artifact, device: str) -> LayerTimes:
    return LayerTimes(time_layers(artifact, device), "measured", "s", device)


def _predicted(artifact: Artifact, program: Program) -> LayerTimes | None:
    """By the table of the shipped profile that the artefact was compiled for; None where there is none."""
    table = _shipped_table(artifact.manifest.profile)
    amounts = predict_layers(table, program) if table is not None else None
    if table is None or amounts is None:
        return None
    made_of = table.provenance
    return LayerTimes(
        tuple(amounts.get(row.name) for row in artifact.manifest.layers),
        "predicted",
        "s" if made_of.unit == "ns" else "instructions",
        f"table of {made_of.date}, {made_of.kind} on {made_of.device}",
    )


def _shipped_table(profile: HardwareProfile) -> LatencyTable | None:
    host = read_host_cpu()
    try:
        is_shipped = find_profile(profile.name, host) == profile
    except ConfigurationError:
        return None  # of a profile.toml of the user's own, which the artefact does not hold
    return read_table(profile_path(profile.name, host)) if is_shipped else None
