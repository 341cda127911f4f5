"""Two ways to multiply 16 bytes of A by a block of output channels on Arm: with sdot, and with what every NEON has."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.neon import CHUNK, LANES, four_of, halves, intrinsic, sdot, signed
from haqnas.kernels.tir import Buffer, Expr, load, splat, store


class Multiply(Protocol):
    """What the kernel of `neon_dot.py` leaves open. Accumulators are int32x4, numbered from pixel 0 on."""

    @property
    def name(self) -> str: ...

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

    def begin(self, acc: Buffer, pixels: int, bias: Buffer, first: Expr, block: int) -> None:
        """Set the accumulators; `first` is the block's first channel."""
        ...

    def act(self, source: Buffer, offset: Expr, units: int) -> Expr:
        """Load the operand of one pixel."""
        ...

    def step(self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int) -> None:
        """Add the products of all pixels and channels of the block; `weights` starts at the step's."""
        ...

    def total(self, acc: Buffer, m: int, part: int, block: int, bias: Buffer, first: Expr) -> Expr:
        """int32x4: the finished sums of channels part .. part + 3 of pixel m."""
        ...


@dataclass(frozen=True, slots=True)
class Sdot:
    """One instruction multiplies four bytes of A by four channels; the bytes are taken by element."""

    name: str = "sdot"
    unit: int = 4

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

    def act(self, source: Buffer, offset: Expr, units: int) -> Expr:
        del units
        return signed(load(source, offset, CHUNK))

    def step(self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int) -> None:
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
    unit: int = 8

    def ordered(self, weight: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(weight)

    def registers(self, pixels: int, block: int) -> int:
        return pixels * block

    def begin(self, acc: Buffer, pixels: int, bias: Buffer, first: Expr, block: int) -> None:
        del bias, first
        for at in range(0, pixels * block * LANES, LANES):
            store(acc, splat(T.int32(0), LANES), at, LANES)

    def act(self, source: Buffer, offset: Expr, units: int) -> Expr:
        return signed(load(source, offset, self.unit * units), self.unit * units)

    def step(self, acc: Buffer, acts: list[Expr], weights: Buffer, block: int, units: int) -> None:
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
                store(acc, load(acc, at, LANES) + wide, at, LANES)

    def total(self, acc: Buffer, m: int, part: int, block: int, bias: Buffer, first: Expr) -> Expr:
        a, b, c, d = (load(acc, (m * block + part + k) * LANES, LANES) for k in range(LANES))

        def paired(x: Expr, y: Expr) -> Expr:
            return intrinsic("int32x4", "addp.v4i32", x, y)

        return paired(paired(a, b), paired(c, d)) + load(bias, first + part, LANES)
