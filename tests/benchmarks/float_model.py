"""The float network on disk, as all peers read it: an ONNX file, one input, samples to calibrate on, the output."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.networks import NETWORKS, calibration_inputs

INPUT = "x"
ONNX = "model.onnx"
_OPSET = 17  # greatest of torch's exporter that needs no further package


def write_float_model(network: str, folder: Path) -> None:
    """Export the network and what is run with it."""
    model, (example,) = NETWORKS[network]()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model, (example,), folder / ONNX, input_names=[INPUT], opset_version=_OPSET, dynamo=False
        )
        np.save(folder / "output.npy", model(example).numpy())
    np.save(folder / "input.npy", example.numpy())
    np.save(folder / "calibration.npy", calibration_inputs(example).numpy())


def _read(folder: Path, name: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.load(folder / f"{name}.npy")
    return values


def read_input(folder: Path) -> NDArray[np.float32]:
    """(1, ...)"""
    return _read(folder, "input")


def read_calibration(folder: Path) -> NDArray[np.float32]:
    """(n, ...)"""
    return _read(folder, "calibration")


def read_output(folder: Path) -> NDArray[np.float32]:
    """What the float network gives for the input."""
    return _read(folder, "output")


def signal_to_noise_db(wanted: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    """How near a quantized output is to the float one."""
    noise = float(np.square(wanted - given.reshape(wanted.shape), dtype=np.float64).sum())
    signal = float(np.square(wanted, dtype=np.float64).sum())
    return float(10 * np.log10(signal / max(noise, 1e-30)))
