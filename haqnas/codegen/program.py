"""Program: a network as a flat list of kernel calls over planned memory; what `lower` makes and `build` reads."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from haqnas.codegen.packing import Packing
from haqnas.kernels.row import Geometry

UNPACKED = "+unpack"  # ends the name of a kernel before which packed weights are unpacked


class Region(StrEnum):
    """Which memory an argument points into."""

    WORKSPACE = "workspace"
    CONSTANTS = "constants"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address: `index` selects the input or output, `offset_bytes` counts from the region's start."""

    region: Region
    offset_bytes: int = 0
    index: int = 0

    def moved(self, count_bytes: int) -> "Pointer":
        """So many bytes further."""
        return Pointer(self.region, self.offset_bytes + count_bytes, self.index)


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call; integer arguments are passed as C `int32_t`."""

    symbol: str
    arguments: tuple[Pointer | int, ...]
    layer: str  # the layer of the user's model that this call works for; "" for glue
    section: int = 0  # parts of one section may run at once; sections run one after the other
    part: int = 0
    signature: str = ""  # what its time depends on besides the function, see `signature.py`


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output: uint8 with a scale and zero point, or float32 (scale 1, zero point 0)."""

    name: str
    dtype: str  # "uint8" | "float32"
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    quant_max: int  # greatest legal integer: 255, or 15 for a 4-bit input; 0 for float32

    @property
    def size_bytes(self) -> int:
        count = 4 if self.dtype == "float32" else 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What was emitted for one layer of the user's model, read by `inspect`."""

    name: str
    kind: str  # conv2d, linear, add ... or "float" for a float island
    weight_bits: int | None
    act_bits: int | None
    packed_bytes: int  # bytes of its packed weights in the constants
    weight_offset_bytes: int  # where they start in the constants
    kernel: str  # name of the kernel table's row, with UNPACKED where that is so
    macs: int
    geometry: Geometry | None = None  # as its kernel sees it; None where no row of the table serves it
    packing: Packing | None = field(
        default=None, compare=False, repr=False
    )  # with the weights: no part of the facts

    @property
    def row(self) -> str:
        """Name of the kernel table's row alone."""
        return self.kernel.removesuffix(UNPACKED)


@dataclass(frozen=True, slots=True)
class Program:
    """Everything the binary holds. `functions` maps a C symbol to its TIR PrimFunc (raw pointer arguments)."""

    name: str  # a C identifier
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    calls: tuple[Call, ...]
    functions: dict[str, Any]
    constants: bytes  # 64-byte aligned blob
    packed_weight_bytes: int
    workspace_bytes: int
    layers: tuple[LayerInfo, ...]
    required_cpu_features: tuple[str, ...]
    is_exact: bool  # all integer: every instruction set gives identical bytes
    threads: int = 1  # at most so many parts has a section
    segments: tuple[
        int, ...
    ] = ()  # where the calls of each program begin, where several were joined to be timed

    @property
    def sections(self) -> "tuple[tuple[tuple[Call, ...], ...], ...]":
        """Calls by section and part, in the order in which they run."""
        grouped: dict[int, dict[int, list[Call]]] = {}
        for call in self.calls:
            grouped.setdefault(call.section, {}).setdefault(call.part, []).append(call)
        return tuple(tuple(map(tuple, parts.values())) for parts in grouped.values())
