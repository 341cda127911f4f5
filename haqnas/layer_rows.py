"""The manifest's row of each layer, and the same layer's weights found again in the executable."""

import hashlib

import torch
from torch.fx import GraphModule

from haqnas.artifact import Artifact
from haqnas.codegen.program import LayerInfo, Program
from haqnas.devices.layer_times import run_layers
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.graph.layers import list_layers
from haqnas.manifest import LayerRow
from haqnas.space.policy import Policy


def layer_rows(
    policy: Policy, program: Program, integer_graph: GraphModule, canonical: GraphModule
) -> tuple[LayerRow, ...]:
    """One row per layer of the program: bits requested, simulated and emitted."""
    num_weights = {layer.name: layer.num_weights for layer in list_layers(canonical)}
    simulated = _simulated_bits(integer_graph)

    def row(layer: LayerInfo) -> LayerRow:
        start = layer.weight_offset_bytes
        packed = program.constants[start : start + layer.packed_bytes]
        has_bits = layer.weight_bits is not None and layer.act_bits is not None
        return LayerRow(
            name=layer.name,
            kind=layer.kind,
            requested=str(policy.spec_of(layer.name)) if layer.name in num_weights else None,
            simulated=simulated.get(layer.name),
            emitted=f"w{layer.weight_bits}a{layer.act_bits}" if has_bits else None,
            num_weights=num_weights.get(layer.name, 0),
            packed_bytes=layer.packed_bytes,
            weight_offset_bytes=start,
            weights_sha256=hashlib.sha256(packed).hexdigest(),
            kernel=layer.kernel,
            macs=layer.macs,
        )

    return tuple(row(layer) for layer in program.layers)


def _simulated_bits(graph: GraphModule) -> dict[str, str]:
    """Bits of each layer with weights, read from the arguments of its integer operator."""
    found = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        names = [argument.name for argument in node.target._schema.arguments]
        if "weight_bits" in names:
            weight_bits, act_bits = (node.args[names.index(name)] for name in ("weight_bits", "act_bits"))
            found[str(node.meta.get("layer", node.name))] = f"w{weight_bits}a{act_bits}"
    return found


def rows_in_binary(artifact: Artifact) -> tuple[bool | None, ...]:
    """Per row of the manifest: whether the executable holds that layer's packed weights where it should.

    None where the artefact has no executable.
    """
    manifest = artifact.manifest
    if "exe" not in manifest.formats:
        return (None,) * len(manifest.layers)
    base = manifest.sizes.constants_offset_bytes
    data = artifact.executable.read_bytes()

    def is_there(row: LayerRow) -> bool:
        if base is None:
            return False
        start = base + row.weight_offset_bytes
        return hashlib.sha256(data[start : start + row.packed_bytes]).hexdigest() == row.weights_sha256

    return tuple(is_there(row) for row in manifest.layers)


_RUNS = 30


def time_layers(artifact: Artifact, device_uri: str | None) -> tuple[float | None, ...]:
    """Seconds of each row of the manifest on a device, all its kernel calls together; None: it has no call of its own.

    Runs the executable of the format `layers`. Raises ConfigurationError where the artefact has none or the device
    measures no time, ProgramError and DeviceError where the run fails.
    """
    manifest = artifact.manifest
    path = f"bin/{manifest.name}-layers"
    if path not in manifest.files:
        raise ConfigurationError(
            f"{artifact.directory} has no executable that times its layers (its formats are "
            f"{', '.join(manifest.formats)}); compile with --format exe,layers"
        )
    device = artifact.device(device_uri)
    if device is None:
        raise DeviceError(f"nothing here can run the target {manifest.profile.name!r}; name a --device")
    if device.latency_kind != "measured":
        raise ConfigurationError(
            f"{device.uri} counts instructions and measures no time; name a device that does, or leave --device out"
        )
    sums = run_layers(artifact.directory / path, _RUNS, device)
    return tuple(sums.get(row.name) for row in manifest.layers)
