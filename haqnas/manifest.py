"""Manifest: everything that an artefact says about itself, and the JSON text that holds it.

The text is canonical and carries its own hash, so that one flipped byte anywhere in it is found, even in
white space; the hash of every other file stands in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from haqnas.codegen.program import TensorInfo
from haqnas.devices.comparison import Comparison
from haqnas.devices.latency import Latency
from haqnas.errors import VerificationError
from haqnas.evaluate import Accuracy
from haqnas.hardware import HardwareProfile
from haqnas.space.outcome import Constraint, RecipeRecord, SearchRecord

SCHEMA = 3
FILE_NAME = "manifest.json"
_HASH_FIELD = "manifest_sha256"


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer: the bits that were asked for, those in the integer graph, those in the binary."""

    name: str
    kind: str
    requested: str | None  # "w4a8"; None for what has no bits of its own (add, float)
    simulated: str | None  # from the integer graph
    emitted: str | None  # read back from the binary
    num_weights: int
    packed_bytes: int
    weight_offset_bytes: int  # in the constants
    weights_sha256: str  # of the packed bytes, so that `inspect` can find them in the binary
    kernel: str
    macs: int
    differences: tuple[str, ...] = ()  # between what was asked for and what the binary does


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of what was made."""

    executable_bytes: int | None
    constants_bytes: int
    packed_weight_bytes: int
    workspace_bytes: int
    constants_offset_bytes: int | None  # where the constants start in the executable


@dataclass(frozen=True, slots=True)
class Build:
    """One of the two builds that were compared."""

    packed_weight_bytes: int
    accuracy: Accuracy
    bits: Mapping[str, str]  # of each layer with weights


@dataclass(frozen=True, slots=True)
class Baseline:
    """The requested bits against uniform int8: the same network, device and moment."""

    comparison: Comparison | None  # requested / uniform; None: no device and no table to tell
    requested: Build
    uniform: Build
    is_chosen: (
        bool  # the bits were chosen by haqnas for their speed, not given by the user or needed for a size
    )
    shipped: Literal["requested", "uniform"]


@dataclass(frozen=True, slots=True)
class Training:
    """The fine-tuning that the weights went through."""

    num_steps: int
    epochs: float
    time_s: float
    loss: float  # smoothed, at the end


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds."""

    name: str
    profile: HardwareProfile
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    output_steps: tuple[
        float, ...
    ]  # greatest difference between machines where the network is not all integer
    is_exact: bool
    layers: tuple[LayerRow, ...]
    accuracy: Accuracy | None
    latency: Latency | None
    sizes: Sizes
    formats: tuple[str, ...]
    versions: Mapping[str, str]
    seed: int
    request_sha256: str  # of everything that went in: the same request again finds the artefact complete
    files: Mapping[str, str]  # path inside the artefact to sha256
    threads: int = 1  # that the binary may run on
    training: Training | None = None
    baseline: Baseline | None = None  # None: uniform int8 was requested, or no comparison wanted
    search: SearchRecord | None = None  # where the bits were chosen by one
    recipe: RecipeRecord | None = None  # of the training, where it was chosen by trials
    architecture: Mapping[str, int] | None = None  # by knob; None: that of the model
    operators: Mapping[str, str] | None = (
        None  # names of the branches of each haqnas.nn.Choice that it has, by knob
    )
    constraints: tuple[Constraint, ...] = ()  # that the user set

    @property
    def missed(self) -> tuple[Constraint, ...]:
        """The constraints that the binary does not meet."""
        return tuple(constraint for constraint in self.constraints if not constraint.is_met)


_ADAPTER = TypeAdapter(Manifest)


def file_sha256(path: Path) -> str:
    """Hash of a whole file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON with its own hash; inverse of `decode_manifest`."""
    return _encode({"schema": SCHEMA, **_ADAPTER.dump_python(manifest, mode="json")})


def decode_manifest(data: bytes, place: Path) -> Manifest:
    """Read and check; raises VerificationError for anything but exactly what `encode_manifest` wrote."""
    try:
        document: Any = json.loads(data)
    except ValueError as error:
        raise VerificationError(f"{place} is damaged: it is not JSON ({error}); compile again") from None
    if not isinstance(document, dict):
        raise VerificationError(f"{place} is damaged: it is not a JSON object; compile again")
    if document.get("schema") != SCHEMA and _encode(document) == data:
        raise VerificationError(
            f"{place} has schema {document.get('schema')!r}, but this haqnas reads {SCHEMA}; "
            "use the haqnas that wrote it, or compile again"
        )
    if _encode(document) != data:
        raise VerificationError(
            f"{place} is damaged: it does not match the hash that it carries; compile again"
        )
    content = {key: value for key, value in document.items() if key not in {"schema", _HASH_FIELD}}
    try:
        return _ADAPTER.validate_json(json.dumps(content), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise VerificationError(f"{place}: the field {field!r}: {first['msg']}; compile again") from None


def _encode(document: Mapping[str, Any]) -> bytes:
    content = {key: value for key, value in document.items() if key != _HASH_FIELD}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, _HASH_FIELD: digest}, indent=2, sort_keys=True) + "\n").encode()
