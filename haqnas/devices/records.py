"""Records: float32 arrays to the raw bytes that an executable reads, and back from what it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from haqnas.codegen.header import inverse_scale
from haqnas.codegen.program import TensorInfo
from haqnas.devices.device import Device
from haqnas.errors import ConfigurationError, ProgramError

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
    """Run all records in one process; gives the raw outputs (n, ...).

    Raises ProgramError where the program fails or writes something else than outputs, DeviceError.
    """
    given = {
        f"input{index}.bin": np.ascontiguousarray(values).tobytes() for index, values in enumerate(inputs)
    }
    wanted = [f"out/output{index}.bin" for index in range(len(outputs))]
    completed = device.run(executable, (*given, "-o", "out"), timeout_s, given, wanted)
    if completed.exit_code != 0:
        raise ProgramError(
            f"{executable.name} failed on {device.uri} (exit code {completed.exit_code}): "
            f"{completed.stderr.strip()}"
        )
    records = len(inputs[0])
    return tuple(
        _read_output(completed.files.get(path), info, records, f"{path} of {executable.name} on {device.uri}")
        for path, info in zip(wanted, outputs, strict=True)
    )


def _read_output(data: bytes | None, info: TensorInfo, records: int, name: str) -> RawArray:
    shape = (records, *info.shape[1:])
    expected_bytes = int(np.prod(shape)) * np.dtype(info.dtype).itemsize
    if data is None or len(data) != expected_bytes:
        got = "was not written" if data is None else f"holds {len(data)} bytes"
        raise ProgramError(
            f"{name} {got}, but {expected_bytes} bytes were expected; check the device's disk and connection"
        )
    return np.frombuffer(data, info.dtype).reshape(shape)
