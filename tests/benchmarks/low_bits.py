"""What fewer bits gain: the same layers at two bit widths, each inside a network of its own, timed turn by turn.

python -m tests.benchmarks.low_bits --quick
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

import haqnas
from tests.benchmarks import machine, ours, report
from tests.benchmarks.compare import BUILD
from tests.benchmarks.interleave import Ratio
from tests.benchmarks.layer_times import layer_times_s
from tests.zoo import build

_LENGTH = 4  # layers of a chain; the first and the last touch the network's input and output and do not count


def conv_chain(channels: int, length: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(length):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def linear_chain(features: int, length: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(length):
        layers += [nn.Linear(features, features), nn.ReLU()]
    return nn.Sequential(*layers)


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer, repeated in a chain."""

    make: Callable[[int], nn.Module]  # of a length
    input_shape: tuple[int, ...]

    def chain(self, length: int) -> tuple[nn.Module, Tensor]:
        model, (example,) = build(partial(self.make, length), self.input_shape)
        return model, example


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "conv 3x3 14x14x256x256": Shape(partial(conv_chain, 256), (1, 256, 14, 14)),
        "conv 3x3 7x7x512x512": Shape(partial(conv_chain, 512), (1, 512, 7, 7)),
        "linear 4096x4096": Shape(partial(linear_chain, 4096), (1, 4096)),
    }
)
CONV_14, CONV_7, LINEAR = SHAPES
# (shape, target, fewer bits)
TIMED = (
    (CONV_14, "x86-64-v3", "w2a4"),
    (CONV_7, "x86-64-v3", "w2a4"),
    (CONV_7, "host", "w4a8"),
    (LINEAR, "host", "w4a8"),
)
COUNTED = ((CONV_14, "cortex-a72", "w2a4"), (CONV_7, "cortex-a72", "w2a4"))


@dataclass(frozen=True, slots=True)
class Gain:
    """One layer at 8 bits and at fewer: seconds, or executed instructions where the target is emulated."""

    shape: str
    target: str
    bits: str
    unit: str  # "s" | "instructions"
    at_w8a8: float
    at_fewer: float
    ratio: Ratio
    kernels: tuple[str, str]


def compile_chain(shape: str, target: str, bits: str, length: int) -> haqnas.Artifact:
    """Compile and check a chain; raises VerificationError where the binary is wrong."""
    model, example = SHAPES[shape].chain(length)
    name = shape.replace(" ", "_")
    folder = BUILD / "low-bits" / f"{name}-{target}-{bits}-{length}"
    folder.mkdir(parents=True, exist_ok=True)
    artifact = ours.compile_model(model, example, "chain", target, bits, folder)
    ours.check(artifact)
    return artifact


def _middle(artifact: haqnas.Artifact) -> tuple[str, ...]:
    return tuple(layer.name for layer in artifact.manifest.layers if layer.num_weights)[1:-1]


def _kernel(artifact: haqnas.Artifact) -> str:
    (first, *_), rows = _middle(artifact), artifact.manifest.layers
    return next(row.kernel for row in rows if row.name == first)


def time_gain(shape: str, target: str, bits: str, is_quick: bool) -> Gain:
    """Times of the middle layers, turn by turn."""
    rounds, runs = (5, 50) if is_quick else (15, 200)
    artifacts = [compile_chain(shape, target, chosen, _LENGTH) for chosen in ("w8a8", bits)]
    cores = machine.cores(1)

    def layer_s(index: int) -> float:
        times_s = layer_times_s(artifacts[index], runs, cores)
        return statistics.mean(times_s[name] for name in _middle(artifacts[index]))

    pairs = [(layer_s(0), layer_s(1)) for _ in range(rounds)]
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4, method="inclusive")
    eight, fewer = (statistics.median(column) for column in zip(*pairs, strict=True))
    kernels = (_kernel(artifacts[0]), _kernel(artifacts[1]))
    return Gain(shape, target, bits, "s", eight, fewer, Ratio(middle, low, high), kernels)


def count_gain(shape: str, target: str, bits: str) -> Gain:
    """Instructions of one layer: a chain of four less a chain of two."""

    def layer_instructions(chosen: str) -> float:
        long, short = (
            compile_chain(shape, target, chosen, length).bench().instructions for length in (_LENGTH, 2)
        )
        assert long is not None
        assert short is not None
        return (long - short) / (_LENGTH - 2)

    eight, fewer = layer_instructions("w8a8"), layer_instructions(bits)
    gain = eight / fewer
    kernels = (
        _kernel(compile_chain(shape, target, "w8a8", _LENGTH)),
        _kernel(compile_chain(shape, target, bits, _LENGTH)),
    )
    return Gain(shape, target, bits, "instructions", eight, fewer, Ratio(gain, gain, gain), kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--targets", nargs="+", default=["x86-64-v3", "host", "cortex-a72"])
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "low-bits.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gains = measure(options.targets, options.quick)
    print(report.gains_text(gains))
    document = {"machine": machine.describe(), "gains": [asdict(gain) for gain in gains]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


def measure(targets: list[str], is_quick: bool) -> list[Gain]:
    gains = [time_gain(*case, is_quick) for case in TIMED if case[1] in targets]
    return gains + [count_gain(*case) for case in COUNTED if case[1] in targets]


if __name__ == "__main__":
    main()
