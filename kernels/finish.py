"""What becomes of an accumulator: the three ways in which a kernel of the dot-product family ends.

- uint8: requantized.
- float32: accumulator * scale.
- uint8_add: requantized, then added to another uint8 image (`haqnas::qadd`) before it is stored: a residual block's
  sum costs a load and a few instructions instead of a pass over memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.tir import (
    AddScalars,
    Buffer,
    Expr,
    added,
    clamp_bounds,
    convert,
    load,
    local,
    requantized,
    store,
)


class Finish(StrEnum):
    """The ending of a kernel."""

    UINT8 = "uint8"
    FLOAT32 = "float32"
    UINT8_ADD = "uint8_add"

    @property
    def dtype(self) -> str:
        return "float32" if self is Finish.FLOAT32 else "uint8"

    @property
    def pointers(self) -> dict[str, str]:
        """Arguments between `y` and the kernel's own."""
        return {"residual": "uint8"} if self is Finish.UINT8_ADD else {}


# Positions in the parameter array, the same for every kernel that ends in this way.
CHANNELS, ZERO_POINT, LOW, HIGH = 0, 1, 2, 3
RESIDUAL_ROW, RESIDUAL_COLUMN = 4, 5
ADD = 6  # eight scalars
OWN = 14  # the kernel's own parameters start here


@dataclass(frozen=True, slots=True)
class Images:
    """Where the scales of a layer are, its output, and the image that is added to it."""

    scale: Buffer
    y: Buffer
    residual: Buffer | None


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Code that ends one pixel of a block of output channels. Create it once, at the start of the kernel."""

    finish: Finish
    lanes: int
    vectors: int
    tail: Buffer  # one pixel of a block that is not whole
    clamp: tuple[Expr, Expr, Expr]
    add: AddScalars
    channels: Expr

    @classmethod
    def begin(cls, finish: Finish, lanes: int, vectors: int, parameters: Buffer) -> "Epilogue":
        return cls(
            finish,
            lanes,
            vectors,
            local(finish.dtype, lanes * vectors),
            clamp_bounds(parameters, ZERO_POINT),
            AddScalars.read(parameters, ADD),
            parameters[CHANNELS],
        )

    def vector(self, total: Expr, factor: Expr, residual: Expr | None) -> Expr:
        """int32 accumulators -> what is stored."""
        if self.finish is Finish.FLOAT32:
            return convert(total, "float32", self.lanes) * factor
        requant = requantized(total, factor, self.clamp, self.lanes)
        return requant if residual is None else added(requant, residual, self.add, self.lanes)

    def write(self, pixels: "Pixels", images: Images, n: Expr) -> None:
        """End all `pixels` of block `n` of output channels."""
        scale, y, residual = images.scale, images.y, images.residual
        block = self.lanes * self.vectors

        def finished(m: Expr, v: int, extra: Expr | None) -> Expr:
            factor = load(scale, n * block + v * self.lanes, self.lanes)
            total = load(pixels.totals, pixels.start(m) + v * self.lanes, self.lanes)
            return self.vector(total, factor, extra)

        # The condition stands outside of the loop over pixels: LLVM does not move it there at -O2.
        with T.If((n + 1) * block <= self.channels):
            with T.Then():
                with T.serial(0, pixels.count) as m:
                    for v in range(self.vectors):
                        first = n * block + v * self.lanes
                        extra = (
                            None
                            if residual is None
                            else load(residual, pixels.residual(m) + first, self.lanes)
                        )
                        store(y, finished(m, v, extra), pixels.out(m) + first, self.lanes)
            with T.Else():
                rest = self.channels - n * block
                with T.serial(0, pixels.count) as m:
                    if residual is not None:  # the last pixel's residual may end its buffer: read no further
                        with T.serial(0, rest) as j:
                            store(self.tail, residual[pixels.residual(m) + n * block + j], j)
                    for v in range(self.vectors):
                        first = v * self.lanes
                        extra = None if residual is None else load(self.tail, first, self.lanes)
                        store(self.tail, finished(m, v, extra), first, self.lanes)
                    with T.serial(0, rest) as j:
                        store(y, self.tail[j], pixels.out(m) + n * block + j)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Neighbouring pixels: where the accumulators, the output and the residual of pixel m begin (channel 0)."""

    count: Expr
    totals: Buffer
    start: Callable[[Expr], Expr]
    out: Callable[[Expr], Expr]
    residual: Callable[[Expr], Expr]
