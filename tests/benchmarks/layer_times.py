"""Time of each layer inside a network: the executable's `--layers`, and which layer each of its calls works for."""

from collections.abc import Sequence
from typing import cast

from torch.fx import GraphModule

import haqnas
from haqnas.artifact import CONSTANTS, GRAPH, decode_arrays
from haqnas.codegen.lower import lower
from haqnas.rewrite.serialize import load_graph
from tests.benchmarks.ours import run_executable

GLUE = ""  # calls that serve no layer of the user's model


def load_integer_graph(artifact: haqnas.Artifact) -> GraphModule:
    text = (artifact.directory / GRAPH).read_text(encoding="utf-8")
    return load_graph(text, decode_arrays(artifact.directory / CONSTANTS))


def call_layers(artifact: haqnas.Artifact) -> tuple[str, ...]:
    """The layer of each kernel call, in the binary's order: lowering the saved graph again gives the same calls."""
    manifest = artifact.manifest
    program = lower(load_integer_graph(artifact), manifest.profile, manifest.name)
    if program.layers and tuple(layer.kernel for layer in program.layers) != tuple(
        row.kernel for row in manifest.layers
    ):
        raise RuntimeError(
            f"{artifact.directory} was made by other kernels than those installed; compile it again"
        )
    return tuple(call.layer for call in program.calls)


def layer_times_s(
    artifact: haqnas.Artifact, layers: Sequence[str], runs: int, cores: Sequence[int]
) -> dict[str, float]:
    """Seconds per layer: the sum of its calls' medians. `layers` is what `call_layers` gives."""
    document = run_executable(artifact.executable, ("--layers", str(runs)), cores)
    times_ns = cast("list[int]", document["median_ns"])
    sums = dict.fromkeys(layers, 0.0)
    for layer, time_ns in zip(layers, times_ns, strict=True):
        sums[layer] += time_ns * 1e-9
    return sums
