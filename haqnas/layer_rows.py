"""The manifest's row of each layer, and the same layer's weights found again in the executable."""

import hashlib
from collections.abc import Iterator, Sequence

from torch.fx import GraphModule

from haqnas.artifact import Artifact
from haqnas.codegen.program import UNPACKED, LayerInfo, Program
from haqnas.devices.layer_times import run_layers
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.graph.layers import list_layers
from haqnas.manifest import LayerRow
from haqnas.readback import FoundLayer, simulated_bits
from haqnas.rewrite.plan import plan_quantizers
from haqnas.space.policy import Policy


def layer_rows(
    policy: Policy,
    program: Program,
    integer_graph: GraphModule,
    canonical: GraphModule,
    found: Sequence[FoundLayer],
) -> tuple[LayerRow, ...]:
    """One row per layer of the program: bits requested, simulated, and as `found` in the binary."""
    num_weights = {layer.name: layer.num_weights for layer in list_layers(canonical)}
    with_weights = {layer.name for layer in program.layers if layer.packing is not None}
    simulated = simulated_bits(integer_graph)
    in_binary = iter(found)
    narrowed = {str(node.target) for node, _ in plan_quantizers(canonical, policy).narrowed}

    def row(layer: LayerInfo) -> LayerRow:
        start = layer.weight_offset_bytes
        packed = program.constants[start : start + layer.packed_bytes]
        held = next(in_binary) if layer.packing is not None else None
        # What follows a layer in float goes under its name too.
        is_layer = held is not None or layer.name not in with_weights
        asked = str(policy.spec_of(layer.name)) if is_layer and layer.name in num_weights else None
        bits = (asked, simulated.get(layer.name) if is_layer else None, held.emitted if held else None)
        return LayerRow(
            name=layer.name,
            kind=layer.kind,
            requested=bits[0],
            simulated=bits[1],
            emitted=bits[2],
            num_weights=num_weights.get(layer.name, 0) if is_layer else 0,
            packed_bytes=layer.packed_bytes,
            weight_offset_bytes=start,
            weights_sha256=hashlib.sha256(packed).hexdigest(),
            kernel=layer.kernel,
            macs=layer.macs,
            differences=tuple(_differences(bits, held, layer.name in narrowed)) if asked else (),
        )

    return tuple(row(layer) for layer in program.layers)


def _bits(count: int | None) -> str:
    return "1 bit" if count == 1 else f"{count} bits"


def _differences(
    bits: tuple[str | None, str | None, str | None], held: FoundLayer | None, is_narrowed: bool
) -> Iterator[str]:
    """What a user who asked for these bits does not get."""
    requested, simulated, emitted = bits
    if held is None:
        yield f"{requested} was requested, but it is computed in float"
        return
    if len({*bits}) > 1:
        yield f"requested {requested}, simulated {simulated}, emitted {emitted}"
    if held.kernel.endswith(UNPACKED):
        stored = _bits(held.weight_bits)
        yield f"its weights are stored in {stored} and unpacked to 8 in memory at each run ({held.reader})"
    if is_narrowed:
        yield f"its input is stored in 8 bits, as others read it so, and narrowed to {held.act_bits} for this layer"


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
