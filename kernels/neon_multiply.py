"""Ways to multiply 16 bytes of A by a block of output channels on Arm: usmmla, sdot, and what every NEON has."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.neon import CHUNK, LANES, four_of, halves, intrinsic, joined, sdot, signed
from haqnas.kernels.tir import Buffer, Expr, load, store


class Multiply(Protocol):
    """What the kernel of `neon_dot.py` leaves open. Accumulators are int32x4, numbered from pixel 0 on."""

    @property
    def name(self) -> str: ...

    @property
    def tile_cost(self) -> float:
        """What a tile costs whatever its pixels (weights, the loop), by what a pixel costs."""
        ...

    @property
    def act_offset(self) -> int:
        """What `act` takes off: 128 where the instruction wants signed numbers."""
        ...

    @property
    def unit(self) -> int:
        """Bytes of A in the shortest step; CHUNK is a multiple of it."""
        ...

    def ordered(self, weight: np.ndarray) -> np.ndarray:
        """(..., channel in the block, byte in the step) -> the order in which `step` reads."""
        ...

    def registers(self, pixels: int, block: int) -> int:
        """Accumulators of a tile."""
        ...

    @property
    def starts_from_bias(self) -> bool:
        """Whether `begin` comes before the first step; else the first step sets the accumulators."""
        ...

    def begin(self, acc: Buffer, pixels: int, bias: Buffer, first: Expr, block: int) -> None:
        """Set the accumulators; `first` is the block's first channel."""
        ...

    def act(self, source: Buffer, offset: Expr, units: int, is_signed: bool) -> Expr:
        """Load the operand of one pixel: from uint8, or from what `act_offset` is off already where `is_signed`."""
        ...

    def step(
        self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int, is_first: bool
    ) -> None:
        """Add the products of all pixels and channels of the block; `weights` starts at the step's."""
        ...

    def total(self, acc: Buffer, m: int, part: int, block: int, bias: Buffer, first: Expr) -> Expr:
        """int32x4: the finished sums of channels part .. part + 3 of pixel m."""
        ...


@dataclass(frozen=True, slots=True)
class Sdot:
    """One instruction multiplies four bytes of A by four channels; the bytes are taken by element."""

    name: str = "sdot"
    tile_cost: float = 0.9
    act_offset: int = 128
    unit: int = 4
    starts_from_bias: bool = True

    def ordered(self, weight: np.ndarray) -> np.ndarray:
        *outer, block, size = weight.shape
        grouped = weight.reshape(*outer, block, size // 4, 4)
        return np.ascontiguousarray(np.moveaxis(grouped, -2, -3))

    def registers(self, pixels: int, block: int) -> int:
        return pixels * block // LANES

    def begin(self, acc: Buffer, pixels: int, bias: Buffer, first: Expr, block: int) -> None:
        for m in range(pixels):
            for c in range(0, block, LANES):
                store(acc, load(bias, first + c, LANES), m * block + c, LANES)

    def act(self, source: Buffer, offset: Expr, units: int, is_signed: bool) -> Expr:
        del units
        value = load(source, offset, CHUNK)
        return value if is_signed else signed(value)

    def step(
        self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int, is_first: bool
    ) -> None:
        del is_first
        for group in range(units):
            for c in range(0, block, LANES):
                weight = load(weights, (group * block + c) * 4, CHUNK)
                for m, act in enumerate(acts):
                    at = m * block + c
                    store(acc, sdot(load(acc, at, LANES), weight, four_of(act, group)), at, LANES)

    def total(self, acc: Buffer, m: int, part: int, block: int, bias: Buffer, first: Expr) -> Expr:
        del bias, first
        return load(acc, m * block + part, LANES)


@dataclass(frozen=True, slots=True)
class Smull:
    """16 bytes of A meet 16 bytes of one channel: smull, smlal2, sadalp; a sum is four partial sums until the end.

    Two products of -128..127 by -127..127 fit 16 bits, so nothing is lost before sadalp widens.
    """

    name: str = "smull"
    tile_cost: float = 0.35
    act_offset: int = 128
    unit: int = 8
    starts_from_bias: bool = False

    def ordered(self, weight: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(weight)

    def registers(self, pixels: int, block: int) -> int:
        return pixels * block

    def begin(self, acc: Buffer, pixels: int, bias: Buffer, first: Expr, block: int) -> None:
        del acc, pixels, bias, first, block

    def act(self, source: Buffer, offset: Expr, units: int, is_signed: bool) -> Expr:
        value = load(source, offset, self.unit * units)
        return value if is_signed else signed(value, self.unit * units)

    def step(
        self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int, is_first: bool
    ) -> None:
        size = self.unit * units
        for c in range(block):
            weight = load(weights, c * size, size)
            for m, act in enumerate(acts):
                parts = [(act, weight)] if units == 1 else zip(halves(act, 8), halves(weight, 8), strict=True)
                product, *more = (intrinsic("int16x8", "smull.v8i16", x, y) for x, y in parts)
                for other in more:
                    product = product + other
                wide = intrinsic("int32x4", "saddlp.v4i32.v8i16", product)
                at = (m * block + c) * LANES
                store(acc, wide if is_first else load(acc, at, LANES) + wide, at, LANES)

    def total(self, acc: Buffer, m: int, part: int, block: int, bias: Buffer, first: Expr) -> Expr:
        a, b, c, d = (load(acc, (m * block + part + k) * LANES, LANES) for k in range(LANES))

        def paired(x: Expr, y: Expr) -> Expr:
            return intrinsic("int32x4", "addp.v4i32", x, y)

        return paired(paired(a, b), paired(c, d)) + load(bias, first + part, LANES)


@dataclass(frozen=True, slots=True)
class Usmmla:
    """One instruction multiplies eight bytes each of two pixels by eight each of two channels: twice the work of sdot.

    A is unsigned as it is stored. An accumulator holds (pixel 0, channel 0), (0, 1), (1, 0), (1, 1); where the pixels
    are odd, the last one is its own neighbour.
    """

    name: str = "usmmla"
    tile_cost: float = 1.2
    act_offset: int = 0
    unit: int = 8
    starts_from_bias: bool = True

    def ordered(self, weight: np.ndarray) -> np.ndarray:
        *outer, block, size = weight.shape
        paired = weight.reshape(*outer, block // 2, 2, size // 8, 8)
        return np.ascontiguousarray(np.moveaxis(paired, -2, -4))

    def registers(self, pixels: int, block: int) -> int:
        return (pixels + 1) // 2 * block // 2

    def begin(self, acc: Buffer, pixels: int, bias: Buffer, first: Expr, block: int) -> None:
        for c in range(0, block, LANES):
            for half, pair in enumerate(halves(load(bias, first + c, LANES), 2)):
                for m in range(0, pixels, 2):
                    store(acc, joined(pair, pair, 2), (m // 2 * block + c + 2 * half) * 2, LANES)

    def act(self, source: Buffer, offset: Expr, units: int, is_signed: bool) -> Expr:
        del is_signed
        return load(source, offset, self.unit * units)

    def step(
        self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int, is_first: bool
    ) -> None:
        del is_first
        pairs = [(acts[m], acts[min(m + 1, len(acts) - 1)]) for m in range(0, len(acts), 2)]
        for unit in range(units):
            lanes = [
                k
                for pixel in range(2)
                for k in range(8 * (pixel * units + unit), 8 * (pixel * units + unit) + 8)
            ]
            rows = [T.Shuffle([x, y], lanes) for x, y in pairs]
            for c in range(0, block, 2):
                weight = load(weights, (unit * block + c) * 8, CHUNK)
                for pair, row in enumerate(rows):
                    at = (pair * block + c) * 2
                    total = intrinsic("int32x4", "usmmla.v4i32.v16i8", load(acc, at, LANES), row, weight)
                    store(acc, total, at, LANES)

    def total(self, acc: Buffer, m: int, part: int, block: int, bias: Buffer, first: Expr) -> Expr:
        del bias, first
        low, high = (load(acc, (m // 2 * block + part + k) * 2, LANES) for k in (0, 2))
        return joined(halves(low, 2)[m % 2], halves(high, 2)[m % 2], 2)
