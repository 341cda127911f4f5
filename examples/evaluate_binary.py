"""Top-1 of compiled executables on a model file's `val_data`, beside the float model and the simulation in PyTorch.

    python examples/evaluate_binary.py examples/digits.py build/demo/arm-cpu build/demo/host

`Artifact.run` takes any number of images: they go into one file of records, so that a whole test set is one process
start. An Arm executable runs under qemu-aarch64; where that is missing, its row says so.
"""

import sys
from pathlib import Path

import numpy as np

import haqnas
from haqnas.errors import DeviceError, HaqnasError
from haqnas.graph.load import load_model


def main(arguments: list[str]) -> int:
    """Print a row per artefact directory; returns the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    model_path, *directories = (Path(argument) for argument in arguments)
    try:
        val_data = load_model(model_path).val_data
        if val_data is None:
            print(f"{model_path} has no val_data(): nothing to score on", file=sys.stderr)
            return 2
        pairs = list(val_data())
        images = np.stack([image.numpy() for image, _ in pairs])
        labels = np.array([int(label) for _, label in pairs])
        print(f"\ntop-1 on the {len(labels)} images of val_data ({model_path})\n")
        print(f"{'artefact':<24} {'float':>8} {'simulated':>10} {'binary':>8}   ran on")
        for directory in directories:
            print(row(directory, images, labels))
    except HaqnasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\nartefacts: " + ", ".join(str(directory.resolve()) for directory in directories))
    return 0


def row(directory: Path, images: np.ndarray, labels: np.ndarray) -> str:
    """Accuracies of one artefact: float and simulated from its manifest, binary by running it."""
    artifact = haqnas.load(directory)
    accuracy = artifact.manifest.accuracy
    known = f"{directory!s:<24} {percent(accuracy.float_model):>8} {percent(accuracy.simulated):>10}"
    try:
        device = artifact.device()
        (logits,) = artifact.run(images)
    except DeviceError as error:
        return f"{known} {'-':>8}   not run: {error}"
    binary = float(np.mean(logits.argmax(axis=1) == labels))
    return f"{known} {percent(binary):>8}   {device.uri if device else ''}"


def percent(share: float | None) -> str:
    """`99.20 %`, or `-` for an unknown share."""
    return "-" if share is None else f"{100 * share:.2f} %"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
