"""A row of the kernel table: what a kernel can compute, and how its arguments are made from a layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from haqnas.kernels import finish
from haqnas.kernels.finish import Finish
from haqnas.kernels.tir import PrimFunc


@dataclass(frozen=True, slots=True)
class Geometry:
    """A layer as its kernel sees it; all strides in elements."""

    kind: str  # "dot" | "depthwise" | "grouped"
    rows: int
    columns: int
    channels: int  # of the output
    length: int  # consecutive input elements at a tap
    offsets: tuple[int, ...]  # of the taps
    group_out: int  # output channels of a group
    in_row: int
    in_column: int
    out_row: int
    out_column: int
    zero_point: int
    low: int
    high: int
    weight_bits: int
    act_bits: int
    residual: "Residual | None" = None
    greatest: float = inf  # no |accumulator * scale| is more
    reads_signed: bool = False  # the input is stored as int8 x - 128
    writes_signed: bool = False
    takes_any_ending: bool = (
        False  # the code must be right for any zero point, bounds and sum, not only for these
    )

    @property
    def is_bounded(self) -> bool:
        """Whether every accumulator * scale fits int32, with room for float32 to round up.

        Only a layer with weights far out of proportion to its outputs (a dead one, say) fails this.
        """
        return self.greatest < 2**30

    @property
    def is_short(self) -> bool:
        """Whether every accumulator * scale fits int16, also with a zero point added: true of most layers."""
        return self.greatest < 2**15 - 2**9

    @property
    def is_signed(self) -> bool:
        """Whether anything that the kernel reads or writes is stored signed."""
        added = self.residual is not None and self.residual.is_signed
        return self.reads_signed or self.writes_signed or added


@dataclass(frozen=True, slots=True)
class Residual:
    """The image that is added to the output: its strides, and the scalars of `haqnas::qadd`."""

    row: int
    column: int
    scalars: tuple[int, ...]
    is_signed: bool = False


@dataclass(frozen=True, slots=True)
class Scratch:
    """Workspace that a kernel needs while it runs."""

    size_bytes: int


Extra = np.ndarray | Scratch  # arguments after (A, W, bias, scale, Y, [residual])


@dataclass(frozen=True, slots=True)
class Kernel:
    """One row: a kernel function with fixed code that serves layers of any shape it accepts."""

    name: str
    isa: str
    kind: str
    weight_bits: range
    act_bits: range
    block: int  # output channels are padded to a multiple of it in weights, bias and scale
    overread_bytes: int  # bytes after the last element of A that may be read
    act_offset: int  # subtracted from A by the kernel: 128 where the instruction wants signed numbers
    accepts: Callable[[Geometry], bool]
    pack: Callable[[Geometry, np.ndarray], np.ndarray]  # (channels, taps, length) int8 -> flat int8
    finishes: tuple[Finish, ...]
    function: Callable[[Geometry, Finish], PrimFunc]  # equal symbols, equal functions
    symbol: Callable[[Geometry, Finish], str]
    extras: Callable[[Geometry], tuple[Extra, ...]]
    cost: Callable[[Geometry], float] | None = (
        None  # of rows with one instruction set; None: channels with padding
    )
    is_general: bool = (
        False  # its few functions serve all layers that it accepts: it stands in for faster rows
    )
    can_be_signed: bool = False  # it also reads and writes images that are stored signed
    arrange: Callable[[Geometry, np.ndarray], np.ndarray] | None = (
        None  # bias, scale; None: padded to whole blocks
    )
    writes_beside: Callable[[Geometry], bool] | None = (
        None  # whether outputs spill into the border; None: never
    )
    packed_lanes: int | None = (
        None  # `pack` packs by so many, and the kernel unpacks itself; None: it packs nothing
    )

    @property
    def reads_packed(self) -> bool:
        """Whether `pack` makes packed weights, which the kernel unpacks itself."""
        return self.packed_lanes is not None

    def per_channel(self, geometry: Geometry, values: np.ndarray) -> np.ndarray:
        """A bias or scale (channels,) in the order in which the kernel reads it."""
        if self.arrange is not None:
            return self.arrange(geometry, values)
        out: np.ndarray = np.zeros(-(-len(values) // self.block) * self.block, values.dtype)
        out[: len(values)] = values
        return out


def with_any_ending(row: Kernel) -> Kernel:
    """The row whose functions end in one form for all layers: fewer functions, each a percent or two slower."""

    def general(g: Geometry) -> Geometry:
        return replace(g, takes_any_ending=True)

    return replace(
        row,
        function=lambda g, finish: row.function(general(g), finish),
        symbol=lambda g, finish: row.symbol(general(g), finish),
    )


def stand_in(row: Kernel) -> Kernel:
    """A row for layers whose own kernels a program has no room for: chosen where no other is left."""
    name = row.name.replace(row.kind, f"{row.kind}-general", 1)
    return replace(with_any_ending(row), name=name, cost=lambda _: inf, is_general=True)


def parameters(values: Mapping[int, int], offsets: Sequence[int], first: int) -> np.ndarray:
    """The parameter array of a kernel: `values` by position, then `offsets` from position `first` on."""
    out = np.zeros(first + len(offsets), np.int32)
    for position, value in values.items():
        out[position] = value
    out[first:] = offsets
    return out


def finish_values(g: Geometry) -> dict[int, int]:
    """The parameters that `finish` reads, by position."""
    values = {
        finish.CHANNELS: g.channels,
        finish.ZERO_POINT: g.zero_point,
        finish.LOW: g.low,
        finish.HIGH: g.high,
    }
    if g.residual is not None:
        values |= {finish.RESIDUAL_ROW: g.residual.row, finish.RESIDUAL_COLUMN: g.residual.column}
        values |= dict(enumerate(g.residual.scalars, finish.ADD))
    return values


def grid(offsets: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """(rows, columns, step down, step across) of taps that form a grid in reading order, else None."""
    across = offsets[1] - offsets[0] if len(offsets) > 1 else 1
    width = next((k for k in range(1, len(offsets)) if offsets[k] - offsets[k - 1] != across), len(offsets))
    height = len(offsets) // width
    down = offsets[width] - offsets[0] if height > 1 else 0
    expected = tuple(offsets[0] + y * down + x * across for y in range(height) for x in range(width))
    return (height, width, down, across) if offsets == expected and offsets[0] == 0 else None
