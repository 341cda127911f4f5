"""PyTorch itself: eager in float32, and compiled by inductor in bfloat16."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.benchmarks.float_model import read_input
from tests.benchmarks.networks import NETWORKS


def versions() -> Mapping[str, str]:
    return {"torch": torch.__version__}


def prepare(network: str, folder: Path) -> None:
    (folder / "network").write_text(network)


class TorchSession:
    """`call` is a module with weights frozen."""

    def __init__(self, call: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._call, self._x = call, x
        self._output = torch.empty(0)

    def run_ns(self) -> int:
        with torch.inference_mode():
            start_ns = time.perf_counter_ns()
            self._output = self._call(self._x)
            return time.perf_counter_ns() - start_ns

    def output(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._output.float().numpy()
        return values


def open_session(variant: str, folder: Path, num_threads: int) -> TorchSession:
    torch.set_num_threads(num_threads)
    model, _ = NETWORKS[(folder / "network").read_text()]()
    x = torch.from_numpy(read_input(folder))
    if x.ndim == 4:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if variant == "float32 eager":
        return TorchSession(model, x)
    import torch._inductor.config as inductor

    inductor.freezing = True
    model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    return TorchSession(torch.compile(model), x)
