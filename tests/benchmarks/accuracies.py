"""Top-1 of binaries on the 10,000 test images of CIFAR-10, beside what each must reach at least.

    HAQNAS_DATA=/path/to/data python -m tests.benchmarks.accuracies [--only resnet20-w4a4 ...]

Trains where the row says so: about 40 minutes on two cores for all rows. The same command again goes on where it
stopped, and trains nothing again; --fresh does.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

import haqnas
from haqnas.graph.load import load_model
from haqnas.options import split_model
from haqnas.rewrite.ptq import PtqMethod
from tests.benchmarks import machine, report
from tests.benchmarks.compare import BUILD

EXAMPLES = Path(__file__).parents[2] / "examples"
RESNET20, RESNET56 = "cifar10_resnet.py", "cifar10_resnet.py:resnet56"
ENDS = ("conv1=8", "linear=8")
AUGMENT = ("flip", "crop")


@dataclass(frozen=True, slots=True)
class Row:
    """A network, how it is compiled, and the accuracy that its binary must reach at least, where there is a bar."""

    model: str
    at_least: float | None
    options: dict[str, Any] = field(default_factory=dict)


def trained(epochs: float, **options: Any) -> dict[str, Any]:
    return {**options, "qat_epochs": epochs, "qat_augment": AUGMENT}


ROWS = {
    "resnet20-w8a8": Row(RESNET20, 0.916, {"bits": "8"}),
    "resnet20-w4a8": Row(RESNET20, 0.914, trained(4, bits="w4a8")),
    "resnet20-w4a4": Row(RESNET20, 0.908, trained(4, bits="w4a4")),
    "resnet20-w2a4": Row(RESNET20, 0.880, trained(8, bits="w2a4", pin=ENDS)),
    "resnet56-55percent": Row(RESNET56, 0.930, trained(3, size_budget="55%")),
    "resnet8-w8a8": Row("mlperf_tiny_resnet8.py", 0.869, {"bits": "8"}),
    **{
        f"resnet20-{bits}-{method}": Row(RESNET20, None, {"bits": bits, "ptq": method})
        for bits in ("w4a8", "w4a4")
        for method in get_args(PtqMethod)
    },
}


@dataclass(frozen=True, slots=True)
class Scored:
    """What a row's binary reaches."""

    name: str
    at_least: float | None
    found: float
    packed_weight_bytes: int
    size_share: float | None  # of what uniform int8 has, where a search chose the bits
    epochs: float
    time_s: float  # of training

    @property
    def missed(self) -> bool:
        return self.at_least is not None and self.found < self.at_least


def score(name: str, row: Row, folder: Path, is_fresh: bool) -> Scored:
    """Compile, or go on, and run the binary on all test images."""
    path, builder = split_model(str(EXAMPLES / row.model))
    loaded = load_model(path, builder)
    assert loaded.val_data is not None
    artifact = haqnas.compile_file(
        str(EXAMPLES / row.model),
        output=folder,
        compare=False,
        fresh=is_fresh,
        formats=("exe",),
        **row.options,
    )
    pairs = list(loaded.val_data())
    (logits,) = artifact.run(np.stack([image.numpy() for image, _ in pairs]))
    labels = np.array([int(label) for _, label in pairs])
    manifest, training = artifact.manifest, artifact.manifest.training
    weights_bytes = manifest.sizes.packed_weight_bytes
    return Scored(
        name=name,
        at_least=row.at_least,
        found=float(np.mean(logits.argmax(axis=1) == labels)),
        packed_weight_bytes=weights_bytes,
        size_share=weights_bytes / manifest.search.int8_weight_bytes if manifest.search else None,
        epochs=training.epochs if training else 0.0,
        time_s=training.time_s if training else 0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--fresh", action="store_true", help="compile and train anew")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "accuracies.json")
    options = parser.parse_args()
    found: list[Scored] = []
    for name in options.only:
        found.append(score(name, ROWS[name], BUILD / "accuracies" / name, options.fresh))
        print(report.accuracies_text(found[-1:]), flush=True)
    print(report.accuracies_text(found))
    document = {"machine": machine.describe(), "accuracies": [asdict(one) for one in found]}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
