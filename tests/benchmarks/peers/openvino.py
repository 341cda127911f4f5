"""OpenVINO: int8 by NNCF, and the float model in the precision that the plugin chooses by default."""

from collections.abc import Mapping
from pathlib import Path

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray

from tests.benchmarks.float_model import ONNX, read_calibration, read_input


def versions() -> Mapping[str, str]:
    return {"openvino": openvino.__version__, "nncf": nncf.__version__}


def _path(folder: Path, variant: str) -> Path:
    return folder / f"openvino-{variant.replace(' ', '-')}.xml"


def prepare(network: str, folder: Path) -> None:
    model = openvino.convert_model(folder / ONNX)
    model.reshape(read_input(folder).shape)
    openvino.save_model(model, _path(folder, "default precision"), compress_to_fp16=False)
    samples = list(read_calibration(folder)[:, None])
    quantized = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
    openvino.save_model(quantized, _path(folder, "int8"), compress_to_fp16=False)


class OpenVinoSession:
    """One stream, tuned for latency."""

    def __init__(self, path: Path, x: NDArray[np.float32], num_threads: int) -> None:
        settings = {"INFERENCE_NUM_THREADS": num_threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self._request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        self._input = openvino.Tensor(x)  # the request does not keep it alive
        self._request.set_input_tensor(self._input)

    def run_ns(self) -> int:
        # The binding's own clock, around the C++ call: its Python wrapper takes 4 us, more than some networks.
        self._request.infer()
        return round(self._request.latency * 1e6)

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return values


def open_session(variant: str, folder: Path, num_threads: int) -> OpenVinoSession:
    return OpenVinoSession(_path(folder, variant), read_input(folder), num_threads)
