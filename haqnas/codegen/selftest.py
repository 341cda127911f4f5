"""The self test in each executable: made-up input that C and Python generate alike, and what it must give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haqnas.codegen.program import Program, TensorInfo

# Knuth's MMIX linear congruential generator; kernels/runtime/main.c has its twin in `fill_input`.
_MULTIPLIER = np.uint64(6364136223846793005)
_INCREMENT = np.uint64(1442695040888963407)
_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a, 64 bits
MAX_SAMPLES = 256  # per output, where the outputs are not exact


@dataclass(frozen=True, slots=True)
class OutputSamples:
    """Expected elements `k * size // len(values)` of one output, and the greatest difference that passes."""

    values: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the network gives for `self_test_inputs`: a hash of all output bytes, or samples if it is not exact."""

    output_hash: int | None
    samples: tuple[OutputSamples, ...] = ()


def self_test_input(info: TensorInfo, index: int = 0) -> NDArray[np.generic]:
    """The made-up input `index`, in `info`'s dtype and shape: uint8 in [0, quant_max], float32 in [-1, 1)."""
    count = int(np.prod(info.shape, dtype=np.int64))
    powers = np.cumprod(np.full(count, _MULTIPLIER), dtype=np.uint64)  # a, a^2, ... modulo 2^64
    ones = np.ones(min(count, 1), np.uint64)
    sums = np.cumsum(np.concatenate([ones, powers[:-1]]), dtype=np.uint64)  # 1, 1 + a, ...
    states = powers * np.uint64(index + 1) + _INCREMENT * sums
    if info.dtype == "float32":
        centred = (states >> np.uint64(40)).astype(np.int32) - np.int32(2**23)
        floats: NDArray[np.float32] = centred.astype(np.float32) / np.float32(2**23)
        return floats.reshape(info.shape)
    integers: NDArray[np.uint64] = (states >> np.uint64(32)) % np.uint64(info.quant_max + 1)
    return integers.astype(np.uint8).reshape(info.shape)


def self_test_inputs(program: Program) -> tuple[NDArray[np.generic], ...]:
    """The made-up inputs of all of the program's inputs, in order."""
    return tuple(self_test_input(info, index) for index, info in enumerate(program.inputs))


def fnv1a(data: bytes) -> int:
    """64-bit FNV-1a hash."""
    state = _FNV_OFFSET
    for byte in data:
        state = (state ^ byte) * _FNV_PRIME % 2**64
    return state


def make_self_test(
    outputs: Sequence[NDArray[np.generic]], is_exact: bool, tolerances: Sequence[float] = ()
) -> SelfTest:
    """Expectations from the reference's outputs (each in its program dtype and shape) for `self_test_inputs`.

    `tolerances`, one per output, in the output's unit, are needed where `is_exact` is false.
    """
    if is_exact:
        return SelfTest(fnv1a(b"".join(np.ascontiguousarray(output).tobytes() for output in outputs)))
    return SelfTest(
        None,
        tuple(_sample(output, tolerance) for output, tolerance in zip(outputs, tolerances, strict=True)),
    )


def _sample(output: NDArray[np.generic], tolerance: float) -> OutputSamples:
    flat = np.asarray(output).reshape(-1)
    count = min(MAX_SAMPLES, flat.size)
    chosen = flat[np.arange(count, dtype=np.int64) * flat.size // max(count, 1)]
    return OutputSamples(tuple(float(value) for value in chosen.astype(np.float32)), float(tolerance))
