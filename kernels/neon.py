"""Vector instructions of 64-bit Arm as TIR expressions, and the finish of an accumulator written with them.

Types are fixed: four int32, eight int16 or sixteen bytes fill a register. LLVM turns the patterns below into the one
instruction that each comment names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import ADD, ZERO_POINT, Finish
from haqnas.kernels.tir import Buffer, Expr, convert, splat

LANES = 4  # int32 in a register
CHUNK = 16  # bytes in a register


def intrinsic(dtype: str, name: str, *arguments: Expr) -> Expr:
    """The result of an LLVM intrinsic for NEON, such as `sdot.v4i32.v16i8`."""
    return T.call_llvm_pure_intrin(dtype, f"llvm.aarch64.neon.{name}", *arguments)


def signed(bytes_: Expr, lanes: int = CHUNK) -> Expr:
    """uint8 x -> int8 x - 128."""
    flipped = T.bitwise_xor(bytes_, splat(T.uint8(128), lanes))
    return T.reinterpret(f"int8x{lanes}", flipped)


def four_of(bytes_: Expr, group: int) -> Expr:
    """Elements 4 * group .. 4 * group + 3 repeated four times: an operand by element, which costs nothing."""
    words = T.reinterpret("int32x4", bytes_)
    return T.reinterpret("int8x16", T.Shuffle([words], [group] * LANES))


def sdot(total: Expr, a: Expr, b: Expr) -> Expr:
    """int32x4 + sums of four products of int8."""
    return intrinsic("int32x4", "sdot.v4i32.v16i8", total, a, b)


def joined(low: Expr, high: Expr, lanes: int) -> Expr:
    """Two half registers as one; where `high` narrows, the narrowing writes the upper half itself (sqxtn2 ...)."""
    return T.Shuffle([low, high], list(range(2 * lanes)))


def halves(register: Expr, lanes: int) -> tuple[Expr, Expr]:
    """Lower and upper half, `lanes` elements each; free where the consumer has a form such as smull2."""
    return tuple(T.Shuffle([register], list(range(k * lanes, (k + 1) * lanes))) for k in (0, 1))


@dataclass(frozen=True, slots=True)
class Clamp:
    """Which parts of "add the zero point, clamp to low .. high" a kernel has code for."""

    moves: bool  # the zero point is not 0
    clamps: bool  # low .. high is not 0 .. 255

    @classmethod
    def of(cls, zero_point: int, low: int, high: int) -> "Clamp":
        return cls(zero_point != 0, (low, high) != (0, 255))

    @property
    def suffix(self) -> str:
        return ("z" if self.moves else "") + ("c" if self.clamps else "")

    def narrowed(self, words: Sequence[Expr], bounds: tuple[Expr, Expr, Expr]) -> Expr:
        """Two or four int32x4 -> bytes; every narrowing saturates (sqxtn, sqadd, sqxtun)."""
        zero_point, low, high = bounds
        narrow = [intrinsic("int16x4", "sqxtn.v4i16", value) for value in words]
        pairs = [joined(narrow[i], narrow[i + 1], LANES) for i in range(0, len(narrow), 2)]
        if self.moves:
            pairs = [intrinsic("int16x8", "sqadd.v8i16", pair, splat(zero_point, 8)) for pair in pairs]
        bytes_ = [intrinsic("uint8x8", "sqxtun.v8i8", pair) for pair in pairs]
        lanes = 8 * len(bytes_)
        result = bytes_[0] if lanes == 8 else joined(bytes_[0], bytes_[1], 8)
        return T.min(T.max(result, splat(low, lanes)), splat(high, lanes)) if self.clamps else result


@dataclass(frozen=True, slots=True)
class Ending:
    """The finish of accumulators on Arm, equal to that of `finish.py`; scalars are read once, at the kernel's start."""

    finish: Finish
    clamp: Clamp
    bounds: tuple[Expr, Expr, Expr]  # zero point int16, low and high uint8
    add: tuple[Expr, ...]

    @classmethod
    def begin(cls, finish: Finish, clamp: Clamp, parameters: Buffer) -> "Ending":
        def read(first: int) -> tuple[Expr, Expr, Expr]:
            zero_point, low, high = (parameters[first + k] for k in range(3))
            return T.cast(zero_point, "int16"), T.cast(low, "uint8"), T.cast(high, "uint8")

        dtypes = ("uint8", "int16", "uint8", "int16", "int32")
        scalars = [T.cast(parameters[ADD + k], dtype) for k, dtype in enumerate(dtypes)]
        return cls(finish, clamp, read(ZERO_POINT), (*scalars, *read(ADD + len(dtypes))))

    @property
    def width(self) -> int:
        """Most elements that `finished` makes at once."""
        return LANES if self.finish is Finish.FLOAT32 else CHUNK

    def finished(self, totals: Sequence[Expr], scales: Sequence[Expr], residual: Expr | None) -> Expr:
        """int32x4 accumulators (one for float32, else two or four) -> what is stored, as one vector.

        fcvtns rounds half to even and saturates, as does each narrowing, so no clamp is needed before them.
        """
        scaled = [
            convert(total, "float32", LANES) * scale for total, scale in zip(totals, scales, strict=True)
        ]
        if self.finish is Finish.FLOAT32:
            return scaled[0]
        rounded = [intrinsic("int32x4", "fcvtns.v4i32.v4f32", value) for value in scaled]
        bytes_ = self.clamp.narrowed(rounded, self.bounds)
        return bytes_ if residual is None else self.added(bytes_, residual, LANES * len(totals))

    def added(self, a: Expr, b: Expr, lanes: int) -> Expr:
        """Two vectors of 8 or 16 uint8 -> their sum by the rule of `haqnas::qadd` (usubl, smull, smlal, srshl)."""
        a_zero, a_multiplier, b_zero, b_multiplier, shift, *bounds = self.add

        def centred(bytes_: Expr, zero: Expr) -> list[Expr]:
            parts = [bytes_] if lanes == 8 else halves(bytes_, 8)
            wide = [convert(part, "int16", 8) - splat(T.cast(zero, "int16"), 8) for part in parts]
            return [quarter for part in wide for quarter in halves(part, 4)]

        def times(value: Expr, multiplier: Expr) -> Expr:
            return intrinsic("int32x4", "smull.v4i32", value, splat(multiplier, LANES))

        down = splat(-shift, LANES)
        sums = [
            intrinsic("int32x4", "srshl.v4i32", times(x, a_multiplier) + times(y, b_multiplier), down)
            for x, y in zip(centred(a, a_zero), centred(b, b_zero), strict=True)
        ]
        return Clamp(moves=True, clamps=True).narrowed(sums, (bounds[0], bounds[1], bounds[2]))
