"""A network in PyTorch whose inference haqnas runs: `torch.compile(model, backend="haqnas")`.

    python examples/torch_backend.py

Prints the accuracy of the float network and of the compiled one on the test images of `digits.py`, and their times.
"""

import time

import torch
from digits import build_model, calibration_data, val_data
from torch import Tensor


def main() -> None:
    """Compile, compare, time."""
    model = build_model()
    compiled = torch.compile(
        model, backend="haqnas", options={"bits": "w4a8", "calibration_data": calibration_data()}
    )
    images, labels = (torch.stack(list(column)) for column in zip(*val_data(), strict=True))
    for name, run in (("float", model), ("haqnas w4a8", compiled)):
        with torch.inference_mode():
            run(images)  # the first call compiles
            start_s = time.perf_counter()
            logits: Tensor = run(images)
            taken_s = time.perf_counter() - start_s
        accuracy = float((logits.argmax(1) == labels).float().mean())
        print(
            f"{name:<12} {accuracy:7.2%} of {len(labels)} images, {taken_s / len(labels) * 1e6:6.1f} us an image"
        )


if __name__ == "__main__":
    main()
