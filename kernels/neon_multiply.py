"""Two ways to multiply 16 bytes of A by a block of output channels on Arm: with sdot, and with what every NEON has."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from haqnas.kernels.neon import CHUNK, LANES, four_of, halves, intrinsic, sdot, signed
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
        """Load the operand of one pixel, int8: from uint8, or from int8 where `is_signed`."""
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
