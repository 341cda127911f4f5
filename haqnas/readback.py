"""Read back: what a binary holds of each layer, found in its bytes and compared with the integer graph.

The table in front of the constants says which function reads which bytes; the width of the weights there is found by
unpacking them until they are the integers of the reference graph. Nothing is taken from the manifest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx import GraphModule

from haqnas.codegen.budget import lower_again
from haqnas.codegen.layer_table import LayerTable, TableRow, find_table, table_rows
from haqnas.codegen.program import LayerInfo, Program
from haqnas.errors import VerificationError
from haqnas.manifest import LayerRow, Manifest


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """One layer with weights, as a binary holds it."""

    name: str
    kernel: str
    reader: str  # the function that is called on the packed weights
    weight_bits: int | None  # at which the bytes decode to the weights of the integer graph; None: at none
    act_bits: int
    offset_bytes: int  # of the packed weights, in the file
    packed_bytes: int

    @property
    def emitted(self) -> str | None:
        """Such as w4a8; None where the weights are not those of the graph."""
        return None if self.weight_bits is None else f"w{self.weight_bits}a{self.act_bits}"


def read_layers(data: bytes, program: Program, place: str) -> tuple[FoundLayer, ...]:
    """The layers with weights in the file whose bytes are `data`, called `place` in errors.

    `program` is what the integer graph is lowered to. Raises VerificationError where the binary has other layers.
    """
    table = find_table(data, program.name, place)
    expected = table_rows(program)
    if len(table.rows) != len(expected):
        raise VerificationError(
            f"{place} has {len(table.rows)} layers with weights, the integer graph {len(expected)}: it is the binary "
            "of another network; compile again"
        )
    layers = [layer for layer in program.layers if layer.packing is not None]
    return tuple(_found(data, table, row, layer) for row, layer in zip(table.rows, layers, strict=True))


def _found(data: bytes, table: LayerTable, row: TableRow, layer: LayerInfo) -> FoundLayer:
    start = table.constants_offset_bytes + row.offset_bytes
    packed = data[start : start + row.packed_bytes]
    assert layer.packing is not None
    bits = layer.packing.find_bits(packed, row.weight_bits) if row.name == layer.name else None
    return FoundLayer(row.name, row.kernel, row.reader, bits, row.act_bits, start, row.packed_bytes)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """All that was read back: the program that the integer graph is lowered to, and each layer with weights."""

    program: Program
    layers: tuple[FoundLayer, ...]
    places: tuple[str, ...]  # the files, which agree


def read_binaries(directory: Path, manifest: Manifest, graph: GraphModule, choice: str) -> ReadBack:
    """Read the layers from every binary of an artefact and compare them with manifest and integer graph.

    `choice` is the text that `lower_and_build` left. Raises VerificationError that names the first layer that differs.
    """
    _check_simulated(manifest.layers, simulated_bits(graph))
    program = lower_again(graph, manifest.profile, manifest.name, choice, manifest.threads)
    places = [name for name in manifest.files if name.startswith(("bin/", "lib/"))]
    layers: tuple[FoundLayer, ...] = ()
    for name in places:
        layers = read_layers((directory / name).read_bytes(), program, str(directory / name))
        _check_emitted(manifest.layers, layers, str(directory / name))
    return ReadBack(program, layers, tuple(places))


def _check_simulated(rows: Sequence[LayerRow], simulated: Mapping[str, str]) -> None:
    with_weights = {row.name for row in rows if row.emitted is not None}
    for row in rows:
        if row.emitted is None and row.name in with_weights:
            continue  # what follows a layer in float
        if row.simulated != simulated.get(row.name):
            raise VerificationError(
                f"layer {row.name!r}: the manifest says that {row.simulated} was simulated, but the integer graph has "
                f"{simulated.get(row.name)}; compile again"
            )


def _check_emitted(rows: Sequence[LayerRow], found: Sequence[FoundLayer], place: str) -> None:
    """What the manifest says of its layers with weights is what the binary holds."""
    claimed = [row for row in rows if row.emitted is not None]
    for row, layer in zip(claimed, found, strict=False):
        if layer.emitted is None:
            raise VerificationError(
                f"layer {row.name!r}: what {place} holds for it ({layer.packed_bytes} bytes at {layer.offset_bytes}) "
                "is not the weights of the integer graph, at no width of 1 to 8 bits; compile again"
            )
        for what, said, read in (
            ("the name", row.name, layer.name),
            ("the emitted bits", row.emitted, layer.emitted),
            ("the kernel", row.kernel, layer.kernel),
            ("packed bytes", row.packed_bytes, layer.packed_bytes),
        ):
            if said != read:
                raise VerificationError(
                    f"layer {row.name!r}: the manifest says {what} {said}, but {place} holds {read}; compile again"
                )
    if len(found) != len(claimed):
        raise VerificationError(
            f"the manifest has {len(claimed)} layers with weights, {place} {len(found)}; compile again"
        )


def simulated_bits(graph: GraphModule) -> dict[str, str]:
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
