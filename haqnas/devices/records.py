"""Records: float32 arrays to the raw bytes that an executable reads, and back from what it writes."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from haqnas.codegen.header import inverse_scale
from haqnas.codegen.program import TensorInfo
from haqnas.devices.device import Device
from haqnas.errors import ConfigurationError, DeviceError

FloatArray: TypeAlias = NDArray[np.float32]
RawArray: TypeAlias = NDArray[np.generic]


def quantize_inputs(inputs: Sequence[FloatArray], infos: Sequence[TensorInfo]) -> tuple[RawArray, ...]:
    """What the executable reads, per input (n, ...); the same arithmetic as `haqnas::quantize`.

    Raises ConfigurationError for inputs of a wrong number or shape.
    """
    if len(inputs) != len(infos):
        raise ConfigurationError(f"the network has {len(infos)} inputs, but got {len(inputs)}")
    counts = {np.shape(values)[:1] for values in inputs}
    for values, info in zip(inputs, infos, strict=True):
        if np.shape(values)[1:] != info.shape[1:] or len(counts) != 1 or not np.size(values):
            expected = ", ".join(["n", *map(str, info.shape[1:])])
            raise ConfigurationError(
                f"input {info.name!r} must have the shape ({expected}), n the same for all inputs and above 0, "
                f"but got {np.shape(values)}"
            )
    return tuple(
        _quantize(np.asarray(values, np.float32), info) for values, info in zip(inputs, infos, strict=True)
    )


def _quantize(values: FloatArray, info: TensorInfo) -> RawArray:
    if info.dtype == "float32":
        return values
    rounded = np.rint(values * np.float32(inverse_scale(info)))
    clamped = np.clip(rounded, -info.zero_point, info.quant_max - info.zero_point) + info.zero_point
    integers: RawArray = clamped.astype(np.uint8)
    return integers


def dequantize(values: RawArray, info: TensorInfo) -> FloatArray:
    """Real values of an input or output of the executable."""
    if info.dtype == "float32":
        return values.astype(np.float32)
    return (values.astype(np.int32) - info.zero_point).astype(np.float32) * np.float32(info.scale)


def run_records(
    executable: Path,
    inputs: Sequence[RawArray],
    outputs: Sequence[TensorInfo],
    device: Device,
    timeout_s: float,
) -> tuple[RawArray, ...]:
    """Run all records in one process; gives the raw outputs (n, ...). Raises DeviceError."""
    with tempfile.TemporaryDirectory(prefix="haqnas-") as scratch:
        folder = Path(scratch)
        paths = [folder / f"input{index}.bin" for index in range(len(inputs))]
        for path, values in zip(paths, inputs, strict=True):
            path.write_bytes(np.ascontiguousarray(values).tobytes())
        completed = device.run(executable, (*map(str, paths), "-o", str(folder / "out")), timeout_s)
        if completed.exit_code != 0:
            raise DeviceError(
                f"{executable.name} failed on {device.uri} (exit code {completed.exit_code}): "
                f"{completed.stderr.strip()}"
            )
        return tuple(
            np.fromfile(folder / "out" / f"output{index}.bin", info.dtype).reshape(-1, *info.shape[1:])
            for index, info in enumerate(outputs)
        )
