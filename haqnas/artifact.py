"""Artifact: the directory that `compile` writes; saved atomically, loaded, verified, run and timed.

DIR/manifest.json            written last: a directory without it is not an artefact
    bin/<name>  lib/  include/<name>.h  policy.json  architecture.json
    golden/inputs.npz, outputs.npz      what the executable reads, and what it must write, bit for bit
    reference/graph.json, constants.npz the integer graph itself, so that `verify` can compute that again
    reference/kernel_choice.json        with it the graph is lowered to the same program again
"""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.fx import GraphModule

from haqnas.codegen.program import TensorInfo
from haqnas.devices.choose import device_for
from haqnas.devices.comparison import Comparison, compare_latency
from haqnas.devices.device import Device
from haqnas.devices.latency import DEFAULT_PLAN, Latency, TimingPlan, measure_latency
from haqnas.devices.local import read_host_cpu
from haqnas.devices.records import FloatArray, RawArray, dequantize, quantize_inputs, run_records
from haqnas.devices.shared_library import SharedLibrary
from haqnas.errors import ConfigurationError, DeviceError, ProgramError, VerificationError
from haqnas.manifest import FILE_NAME, Manifest, decode_manifest, encode_manifest, file_sha256
from haqnas.readback import ReadBack, read_binaries
from haqnas.rewrite.serialize import load_graph
from haqnas.versions import is_own_make

RUN_TIMEOUT_S = 600.0
GOLDEN_INPUTS = Path("golden/inputs.npz")
GOLDEN_OUTPUTS = Path("golden/outputs.npz")
GRAPH = Path("reference/graph.json")
CONSTANTS = Path("reference/constants.npz")
KERNEL_CHOICE = Path("reference/kernel_choice.json")
POLICY = Path("policy.json")
ARCHITECTURE = Path("architecture.json")  # where it is not that of the model
STUDY = Path("study.journal")  # the trials of a search that made some, for Optuna
SENSITIVITY = Path("reference/sensitivity.json")  # where the bits were chosen by a search


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that `verify` looked at. A failure is an exception, not a Check."""

    name: str
    result: Literal["ok", "not run"]
    detail: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A complete artefact on disk."""

    directory: Path
    manifest: Manifest

    @property
    def executable(self) -> Path:
        """The static executable; raises ConfigurationError where the format `exe` was not asked for."""
        name = f"bin/{self.manifest.name}"
        if name not in self.manifest.files:
            raise ConfigurationError(
                f"{self.directory} has no executable (its formats are {', '.join(self.manifest.formats)}); "
                "compile with --format exe"
            )
        return self.directory / name

    def open_library(self) -> SharedLibrary:
        """The network inside this process.

        Raises ConfigurationError without the format `so`, DeviceError for another machine's.
        """
        manifest = self.manifest
        name = f"lib/lib{manifest.name}.so"
        if name not in manifest.files:
            raise ConfigurationError(f"{self.directory} has no shared library; compile with --format so")
        if not read_host_cpu().can_run(manifest.profile):
            raise DeviceError(
                f"this machine cannot run the target {manifest.profile.name!r}; take --target host"
            )
        size = manifest.sizes.workspace_bytes
        return SharedLibrary(self.directory / name, manifest.name, manifest.inputs, manifest.outputs, size)

    def device(self, uri: str | None = None) -> Device | None:
        """The device that runs this artefact; None where nothing here can. Raises as `device_for`."""
        return device_for(self.manifest.profile, uri, read_host_cpu(), self.manifest.threads)

    def run(
        self, *inputs: FloatArray, device: str | None = None, timeout_s: float = RUN_TIMEOUT_S
    ) -> tuple[FloatArray, ...]:
        """Run the executable on float32 inputs (n, ...), n records each; gives float32 outputs (n, ...).

        Raises ConfigurationError for a wrong number or shape of inputs, DeviceError where the run fails.
        """
        infos = self.manifest.outputs
        records = quantize_inputs(inputs, self.manifest.inputs)
        raw = run_records(self.executable, records, infos, self._required_device(device), timeout_s)
        return tuple(dequantize(values, info) for values, info in zip(raw, infos, strict=True))

    def bench(
        self, device: str | None = None, plan: TimingPlan = DEFAULT_PLAN, timeout_s: float = RUN_TIMEOUT_S
    ) -> Latency:
        """Measure on the device: time, or instructions and cycles where it is emulated. Raises DeviceError."""
        chosen = self._required_device(device)
        return measure_latency(self.executable, chosen, plan, timeout_s, self.manifest.threads)

    def compare(
        self,
        other: "Artifact",
        device: str | None = None,
        plan: TimingPlan = DEFAULT_PLAN,
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Comparison:
        """How this artefact stands against `other`, on one device that runs both, turn by turn.

        Raises ConfigurationError where one device cannot run both, DeviceError where it fails.
        """
        chosen, others = self._required_device(device), other._required_device(device)
        if chosen.uri != others.uri:
            raise ConfigurationError(
                f"a comparison runs on one device, but {self.directory} runs on {chosen.uri} and {other.directory} on "
                f"{others.uri}; name one that runs both with --device"
            )
        threads = (self.manifest.threads, other.manifest.threads)
        return compare_latency(self.executable, other.executable, chosen, plan, timeout_s, threads)

    def verify(self, device: str | None = None, timeout_s: float = RUN_TIMEOUT_S) -> tuple[Check, ...]:
        """Check files, reference and binary; raises VerificationError at the first difference."""
        return verify(self.directory, device, timeout_s)

    def _required_device(self, uri: str | None) -> Device:
        device = self.device(uri)
        if device is None:
            profile = self.manifest.profile
            way_out = "type `apt install qemu-user`" if profile.emulator else "use a machine that has them"
            raise DeviceError(
                f"nothing here can run the target {profile.name!r} ({profile.arch}; "
                f"{', '.join(profile.cpu_features)}); {way_out}"
            )
        return device


# Files ------------------------------------------------------------------------------------------------------


def encode_arrays(arrays: Mapping[str, RawArray]) -> bytes:
    """An npz without pickle and without time stamps: the same arrays give the same bytes."""
    stream = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(stream, allow_pickle=False, **named)
    return stream.getvalue()


def decode_arrays(path: Path) -> dict[str, RawArray]:
    """Inverse of `encode_arrays`; raises VerificationError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, KeyError) as error:
        raise VerificationError(f"{path} is damaged: {error}; compile again") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: a killed run leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save(staged: Path, directory: Path, manifest: Manifest) -> Artifact:
    """Make `directory` the artefact whose files lie in `staged`, on the same file system.

    The old manifest goes first and the new one comes last, so that a run killed in between leaves a
    directory that neither `verify` nor a later run takes for whole.
    """
    names = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
    complete = replace(manifest, files={name: file_sha256(staged / name) for name in names})
    _discard(directory)
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(directory / name)
    write_atomically(directory / FILE_NAME, encode_manifest(complete))
    return Artifact(directory, complete)


def _discard(directory: Path) -> None:
    """Take away an older artefact: only the manifest and the files that it names."""
    manifest = directory / FILE_NAME
    if not manifest.exists():
        return
    try:
        old = tuple(decode_manifest(manifest.read_bytes(), manifest).files)
    except VerificationError:
        old = ()  # damaged: its files are replaced below where they have the same names
    manifest.unlink()
    for name in old:
        if _is_inside(name):
            (directory / name).unlink(missing_ok=True)


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def load(directory: Path) -> Artifact:
    """Read an artefact's manifest; `verify` reads the rest. Raises ConfigurationError, VerificationError."""
    manifest = directory / FILE_NAME
    try:
        data = manifest.read_bytes()
    except FileNotFoundError:
        what = "is no complete artefact: it has no manifest.json" if directory.is_dir() else "does not exist"
        raise ConfigurationError(
            f"{directory} {what}; `haqnas compile MODEL -o {directory}` makes one"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{manifest} cannot be read: {error.strerror}") from None
    return Artifact(directory, decode_manifest(data, manifest))


# Verification -----------------------------------------------------------------------------------------------


def verify(directory: Path, device: str | None = None, timeout_s: float = RUN_TIMEOUT_S) -> tuple[Check, ...]:
    """Prove an artefact: every byte of its files, the integer graph against the golden outputs, the binary.

    Raises VerificationError at the first difference, ProgramError where the binary crashes, DeviceError where a device
    fails.
    """
    artifact = load(directory)
    files = check_files(artifact)
    inputs, outputs = golden_records(artifact)
    graph = load_reference(directory)
    reference = check_reference(artifact, graph, inputs, outputs)
    layers = check_layers(artifact, graph)
    binary = check_binary(artifact, inputs, outputs, device, timeout_s)
    return files, reference, layers, *binary, *check_library(artifact, inputs, outputs)


def _numbered(path: Path) -> tuple[RawArray, ...]:
    """Arrays saved as `0`, `1` ..."""
    arrays = decode_arrays(path)
    return tuple(arrays[name] for name in sorted(arrays, key=int))


def check_files(artifact: Artifact) -> Check:
    """Every file is there, with the hash that the manifest names."""
    for name, expected in artifact.manifest.files.items():
        path = artifact.directory / name
        if not _is_inside(name):
            raise VerificationError(f"the manifest names a file outside of the artefact: {name!r}")
        if not path.is_file():
            raise VerificationError(f"{path} is missing; compile again")
        if file_sha256(path) != expected:
            raise VerificationError(
                f"{path} is damaged: its sha256 is not that of the manifest; compile again"
            )
    return Check("files", "ok", f"{len(artifact.manifest.files)} files and the manifest match their hashes")


def load_reference(directory: Path) -> GraphModule:
    """The integer graph of an artefact; raises VerificationError where it is damaged."""
    return load_graph((directory / GRAPH).read_text(encoding="utf-8"), decode_arrays(directory / CONSTANTS))


def check_layers(artifact: Artifact, graph: GraphModule) -> Check:
    """Each layer's weights, unpacked from each binary, are those of the integer graph at the bits of the manifest."""
    if not is_own_make(artifact.manifest.versions):
        return Check(
            "layers", "not run", "another haqnas made it, whose kernels lay weights out in their own way"
        )
    found = read_back(artifact, graph)
    return Check(
        "layers",
        "ok",
        f"{len(found.layers)} with weights, unpacked from {', '.join(found.places)}, are those of the integer graph",
    )


def read_back(artifact: Artifact, graph: GraphModule) -> ReadBack:
    """As `readback.read_binaries`."""
    choice = (artifact.directory / KERNEL_CHOICE).read_text(encoding="utf-8")
    return read_binaries(artifact.directory, artifact.manifest, graph, choice)


def check_reference(
    artifact: Artifact, graph: GraphModule, inputs: Sequence[RawArray], outputs: Sequence[RawArray]
) -> Check:
    """The integer graph in PyTorch gives the golden outputs."""
    given = run_reference(graph, inputs, artifact.manifest.inputs)
    compare_outputs(given, outputs, artifact.manifest, "the integer graph in PyTorch", "the golden outputs")
    return Check("reference", "ok", f"the integer graph gives {_agreement(artifact.manifest)}")


def check_binary(
    artifact: Artifact,
    inputs: Sequence[RawArray],
    outputs: Sequence[RawArray],
    device: str | None,
    timeout_s: float,
) -> tuple[Check, ...]:
    """The executable passes its self test and gives the golden outputs, where a device can run it."""
    manifest = artifact.manifest
    if "exe" not in manifest.formats:
        return (Check("binary", "not run", "the artefact has no executable; compile with --format exe"),)
    chosen = artifact.device(device)
    if chosen is None:
        return (Check("binary", "not run", f"no device here can run the target {manifest.profile.name!r}"),)
    completed = chosen.run(artifact.executable, ("--golden",), timeout_s)
    if completed.exit_code == VerificationError.exit_code:
        raise VerificationError(f"the self test failed on {chosen.uri}: {completed.stderr.strip()}")
    if completed.exit_code != 0:
        raise ProgramError(f"the self test did not run on {chosen.uri}: {completed.stderr.strip()}")
    given = run_records(artifact.executable, inputs, manifest.outputs, chosen, timeout_s)
    compare_outputs(given, outputs, manifest, f"the executable on {chosen.uri}", "the integer graph")
    return (
        Check("self test", "ok", f"{completed.stdout.strip()} on {chosen.uri}"),
        Check("binary", "ok", f"the executable on {chosen.uri} gives {_agreement(manifest)}"),
    )


def check_library(
    artifact: Artifact, inputs: Sequence[RawArray], outputs: Sequence[RawArray]
) -> tuple[Check, ...]:
    """The shared library gives the golden outputs in this process, where the artefact has one and it can run here."""
    manifest = artifact.manifest
    if f"lib/lib{manifest.name}.so" not in manifest.files:
        return ()
    if not read_host_cpu().can_run(manifest.profile):
        return (Check("library", "not run", f"this process cannot load code for {manifest.profile.name!r}"),)
    given = artifact.open_library().run(inputs)
    compare_outputs(given, outputs, manifest, "the shared library", "the integer graph")
    return (Check("library", "ok", f"the shared library in this process gives {_agreement(manifest)}"),)


def golden_records(artifact: Artifact) -> tuple[tuple[RawArray, ...], tuple[RawArray, ...]]:
    """Inputs and outputs that are known to be right. Raises VerificationError where their files are damaged."""
    return _numbered(artifact.directory / GOLDEN_INPUTS), _numbered(artifact.directory / GOLDEN_OUTPUTS)


def run_reference(
    graph: torch.nn.Module, inputs: Sequence[RawArray], infos: Sequence[TensorInfo]
) -> tuple[RawArray, ...]:
    """The integer graph on the executable's inputs, record by record, as float islands may depend on the batch."""
    records = []
    for index in range(len(inputs[0])):
        reals = [
            dequantize(values[index : index + 1], info) for values, info in zip(inputs, infos, strict=True)
        ]
        with torch.no_grad():
            result = graph(*(torch.from_numpy(real) for real in reals))
        records.append(result if isinstance(result, tuple) else (result,))
    return tuple(
        np.concatenate([output.numpy() for output in column]) for column in zip(*records, strict=True)
    )


def compare_outputs(
    given: Sequence[RawArray], expected: Sequence[RawArray], manifest: Manifest, left: str, right: str
) -> None:
    """Bit for bit where the network is all integer, else within one quantization step of the output.

    Raises VerificationError that names output, record, element and both values.
    """
    for index, (one, other) in enumerate(zip(given, expected, strict=True)):
        if one.shape != other.shape:
            raise VerificationError(
                f"{left} gives output {index} of shape {one.shape}, {right} {other.shape}"
            )
        # Bits, not values: a NaN equals itself and 0.0 is not -0.0 ... as integers of the same width.
        if manifest.is_exact:
            differs = one.view(np.uint8) != other.view(np.uint8)
            differs = differs.reshape(*one.shape, -1).any(axis=-1)
        else:
            distance = np.abs(one.astype(np.float64) - other.astype(np.float64))
            differs = ~(distance <= manifest.output_steps[index])
        if differs.any():
            place = tuple(int(axis[0]) for axis in np.nonzero(differs))
            raise VerificationError(
                f"{left} and {right} differ in {int(differs.sum())} of {differs.size} elements of output {index}; "
                f"the first is {place}: {one[place]} and {other[place]}"
            )


def _agreement(manifest: Manifest) -> str:
    if manifest.is_exact:
        return "the golden outputs, bit for bit"
    return "the golden outputs within one quantization step (float islands)"
