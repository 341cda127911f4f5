"""Each layer's share of what the machine can do: measured time against measured peaks of compute and of memory.

python -m tests.benchmarks.roofline --only resnet20
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import haqnas
from haqnas.artifact import CONSTANTS, GRAPH, decode_arrays
from haqnas.devices.local import read_host_cpu
from haqnas.manifest import LayerRow
from haqnas.rewrite.serialize import load_graph
from tests.benchmarks import machine, ours, report
from tests.benchmarks.compare import BUILD, prepare_all
from tests.benchmarks.layer_times import layer_times_s
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.ours import run_executable
from tests.benchmarks.session import UnsupportedError

_SOURCE = Path(__file__).with_name("peaks.c")
_FEATURES = {"avx2": "avx2", "avx512-vnni": "avx512vnni", "amx-int8": "amx-int8"}  # instructions: CPU feature


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of one core."""

    macs_per_s: Mapping[str, float]  # by kind of instruction
    read_bytes_per_s: float  # from a working set of the network's size

    def of_kernel(self, kernel: str) -> float:
        """The peak of the instructions that a kernel is named after, else of the best vector instructions."""
        words = kernel.replace("+", "/").split("/")
        named = [isa for isa in self.macs_per_s if isa in words]
        vectors = [isa for isa in ("avx512-vnni", "avx2") if isa in self.macs_per_s]
        return self.macs_per_s[(named or vectors)[0]]


@dataclass(frozen=True, slots=True)
class LayerShare:
    """One layer: the greater of both shares says how near it is to the roof."""

    layer: str
    kernel: str
    time_s: float
    macs: int
    moved_bytes: int  # packed weights, inputs and outputs, each once
    compute_share: float
    memory_share: float

    @property
    def ideal_s(self) -> float:
        return max(self.compute_share, self.memory_share) * self.time_s


@dataclass(frozen=True, slots=True)
class Roofline:
    """A network: its layers, and the time at the roof / the time taken."""

    network: str
    peaks: Peaks
    layers: tuple[LayerShare, ...]
    unnamed_s: float  # calls that work for no layer with a kernel: copies, tables
    share: float


def measure_peaks(working_set_bytes: int, cores: Sequence[int]) -> Peaks:
    """Build and run `peaks.c`; raises UnsupportedError where the CPU is no x86-64 with AVX2."""
    cpu = read_host_cpu()
    isas = [isa for isa, feature in _FEATURES.items() if feature in cpu.features]
    if cpu.arch != "x86_64" or "avx2" not in isas:
        raise UnsupportedError("peaks are measured on x86-64 with AVX2 only")
    program = BUILD / "peaks"
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl", "-O2"]
        subprocess.run([*command, "-o", program, _SOURCE], check=True, capture_output=True)
    found = run_executable(program, (",".join(isas), str(working_set_bytes)), cores)
    return Peaks(found["macs_per_s"], found["read_bytes_per_s"][0])


def activation_bytes(artifact: haqnas.Artifact) -> dict[str, int]:
    """Per layer: bytes of the activations that its operators read and write."""
    text = (artifact.directory / GRAPH).read_text(encoding="utf-8")
    graph = load_graph(text, decode_arrays(artifact.directory / CONSTANTS))
    sums: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        values = [source.meta["val"] for source in node.all_input_nodes if source.op != "get_attr"]
        tensors = [value for value in (*values, node.meta["val"]) if isinstance(value, torch.Tensor)]
        moved = sum(value.numel() * value.element_size() for value in tensors)
        sums[node.meta["layer"]] = sums.get(node.meta["layer"], 0) + moved
    return sums


def roofline(network: str, runs: int, cores: Sequence[int]) -> Roofline:
    """Shares of each layer of a network's int8 build for this machine."""
    folder, _ = prepare_all(network, ())
    artifact = ours.compile_network(network, "host", "8", folder / "host-w8a8")
    sizes = artifact.manifest.sizes
    peaks = measure_peaks(sizes.constants_bytes + sizes.workspace_bytes, cores)
    times_s, moved = layer_times_s(artifact, runs, cores), activation_bytes(artifact)

    def share(row: LayerRow, time_s: float) -> LayerShare:
        moved_bytes = row.packed_bytes + moved.get(row.name, 0)
        compute = row.macs / peaks.of_kernel(row.kernel) / time_s
        memory = moved_bytes / peaks.read_bytes_per_s / time_s
        return LayerShare(row.name, row.kernel, time_s, row.macs, moved_bytes, compute, memory)

    layers = tuple(share(row, times_s[row.name]) for row in artifact.manifest.layers if row.name in times_s)
    named_s = sum(layer.time_s for layer in layers)
    total_s = sum(times_s.values())
    ideal_s = sum(layer.ideal_s for layer in layers)
    return Roofline(network, peaks, layers, total_s - named_s, ideal_s / total_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "roofline.json")
    options = parser.parse_args()
    cores = machine.cores(1)
    found = []
    for network in options.only:
        found.append(roofline(network, options.runs, cores))
        print(report.roofline_text(found[-1]), flush=True)
    document = {"machine": machine.describe(), "rooflines": [asdict(one) for one in found]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
