"""ONNX Runtime, int8 by its static quantization, in both of its formats."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tests.benchmarks.float_model import INPUT, ONNX, read_calibration, read_input

# Unsigned activations and signed weights per channel: what the vendor recommends for CPUs with VNNI.
_FORMATS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: NDArray[np.float32]) -> None:
        self._samples: Iterator[NDArray[np.float32]] = iter(samples[:, None])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        sample = next(self._samples, None)
        return None if sample is None else {INPUT: sample}


def versions() -> Mapping[str, str]:
    return {"onnxruntime": onnxruntime.__version__}


def prepare(network: str, folder: Path) -> None:
    prepared = folder / "preprocessed.onnx"
    quant_pre_process(folder / ONNX, prepared)
    for name, quant_format in _FORMATS.items():
        quantize_static(
            prepared,
            folder / f"{name}.onnx",
            _Calibration(read_calibration(folder)),
            quant_format=quant_format,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class OnnxSession:
    """Input and output stay bound, so that a run copies nothing."""

    def __init__(self, path: Path, x: NDArray[np.float32], num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, onnxruntime.OrtValue.ortvalue_from_numpy(x))
        self._binding.bind_output(session.get_outputs()[0].name)
        self._run: Any = session.run_with_iobinding

    def run_ns(self) -> int:
        start_ns = time.perf_counter_ns()
        self._run(self._binding)
        return time.perf_counter_ns() - start_ns

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return values


def open_session(variant: str, folder: Path, num_threads: int) -> OnnxSession:
    return OnnxSession(folder / f"{variant.removeprefix('int8 ')}.onnx", read_input(folder), num_threads)
