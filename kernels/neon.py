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
MOST_NARROWING_SHIFT = 16


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

    moves: bool  # the zero point, as it is stored, is not 0
    clamps: bool  # low .. high is not all that a byte holds
    is_signed: bool = False  # x - 128 is stored, and so are the zero point, low and high

    @classmethod
    def of(cls, zero_point: int, low: int, high: int, is_signed: bool = False) -> "Clamp":
        return cls(is_signed or zero_point != 0, (low, high) != (0, 255), is_signed)

    @property
    def suffix(self) -> str:
        zero_point = "s" if self.is_signed else "z" if self.moves else ""
        return zero_point + ("c" if self.clamps else "")

    def bounds(self, parameters: Buffer, first: int) -> tuple[Expr, Expr, Expr]:
        """What `bytes_of` wants, from the zero point, low and high at `first`."""
        zero_point, low, high = (parameters[first + k] - (128 if self.is_signed else 0) for k in range(3))
        byte = "int8" if self.is_signed else "uint8"
        return T.cast(zero_point, "int16"), T.cast(low, byte), T.cast(high, byte)

    def bytes_of(self, pairs: Sequence[Expr], bounds: tuple[Expr, Expr, Expr]) -> Expr:
        """One or two int16x8 without their zero point -> bytes (sqadd, sqxtun or sqxtn)."""
        zero_point, low, high = bounds
        narrow, dtype = ("sqxtn", "int8") if self.is_signed else ("sqxtun", "uint8")
        if self.moves:
            pairs = [intrinsic("int16x8", "sqadd.v8i16", pair, splat(zero_point, 8)) for pair in pairs]
        bytes_ = [intrinsic(f"{dtype}x8", f"{narrow}.v8i8", pair) for pair in pairs]
        lanes = 8 * len(bytes_)
        result = bytes_[0] if lanes == 8 else joined(bytes_[0], bytes_[1], 8)
        return T.min(T.max(result, splat(low, lanes)), splat(high, lanes)) if self.clamps else result


@dataclass(frozen=True, slots=True)
class Sum:
    """Which parts of `haqnas::qadd` a kernel that adds another image has code for."""

    shift: int
    moves: bool  # the convolution's own zero point is not the one that the sum takes off again
    reads_signed: bool  # the other image is stored as x - 128
    clamp: Clamp

    @classmethod
    def of(
        cls, own_zero_point: int, scalars: tuple[int, ...], reads_signed: bool, writes_signed: bool
    ) -> "Sum":
        a_zero, _, _, _, shift, *bounds = scalars
        clamp = Clamp.of(bounds[0], bounds[1], bounds[2], writes_signed)
        return cls(shift, own_zero_point != a_zero, reads_signed, clamp)

    @property
    def suffix(self) -> str:
        flags = ("m" if self.moves else "") + ("r" if self.reads_signed else "")
        return f"{self.shift}{flags}{self.clamp.suffix}"

    def rounded(self, word: Expr) -> Expr:
        """int32x4 >> shift, rounded half up, as int16x4 (sqrshrn, which shifts by 1 .. 16)."""
        if self.shift <= MOST_NARROWING_SHIFT:
            return intrinsic("int16x4", "sqrshrn.v4i16", word, T.int32(self.shift))
        shifted = intrinsic("int32x4", "srshl.v4i32", word, splat(T.int32(-self.shift), LANES))
        return intrinsic("int16x4", "sqxtn.v4i16", shifted)


def _pairs(narrow: Sequence[Expr]) -> list[Expr]:
    """int16x4, an even number -> int16x8, half as many."""
    return [joined(narrow[i], narrow[i + 1], LANES) for i in range(0, len(narrow), 2)]


@dataclass(frozen=True, slots=True)
class Ending:
    """The finish of accumulators on Arm, equal to that of `finish.py`; scalars are read once, at the kernel's start."""

    finish: Finish
    clamp: Clamp
    sum: Sum | None
    bounds: tuple[Expr, Expr, Expr]
    centred: tuple[
        Expr, Expr, Expr
    ]  # before a sum: low - zero point, high - zero point, what the sum moves it by
    operands: tuple[Expr, ...]  # of a sum: two multipliers int16, the residual's zero point as it is stored
    sum_bounds: tuple[Expr, Expr, Expr]

    @classmethod
    def begin(cls, finish: Finish, clamp: Clamp, sum_: Sum | None, parameters: Buffer) -> "Ending":
        """`sum_` for a kernel that adds another image."""
        zero_point, low, high = (parameters[ZERO_POINT + k] for k in range(3))
        a_zero, a_multiplier, b_zero, b_multiplier = (parameters[ADD + k] for k in range(4))
        # A vector that LLVM knows nothing of: it would split usubl into uxtl and sub.
        if sum_ and sum_.reads_signed:
            opaque = intrinsic("int8x8", "sqxtn.v8i8", splat(T.cast(b_zero - 128, "int16"), 8))
        else:
            opaque = intrinsic("uint8x8", "sqxtun.v8i8", splat(T.cast(b_zero, "int16"), 8))
        return cls(
            finish,
            clamp,
            sum_,
            clamp.bounds(parameters, ZERO_POINT),
            (
                T.cast(low - zero_point, "int16"),
                T.cast(high - zero_point, "int16"),
                T.cast(zero_point - a_zero, "int16"),
            ),
            (T.cast(a_multiplier, "int16"), T.cast(b_multiplier, "int16"), opaque),
            (sum_.clamp if sum_ else clamp).bounds(parameters, ADD + 5),
        )

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
        pairs = _pairs([intrinsic("int16x4", "sqxtn.v4i16", value) for value in rounded])
        if self.sum is None or residual is None:
            return self.clamp.bytes_of(pairs, self.bounds)
        parts = [residual] if len(pairs) == 1 else halves(residual, 8)
        added = [self._added(self.sum, own, other) for own, other in zip(pairs, parts, strict=True)]
        return self.sum.clamp.bytes_of(added, self.sum_bounds)

    def _added(self, sum_: Sum, own: Expr, other: Expr) -> Expr:
        """int16x8 without its zero point, bytes -> their sum without its zero point (usubl, smull, smlal)."""
        low, high, move = self.centred
        a_multiplier, b_multiplier, b_zero = self.operands
        own = T.min(T.max(own, splat(low, 8)), splat(high, 8))
        if sum_.moves:
            own = own + splat(move, 8)
        other = convert(other, "int16", 8) - convert(b_zero, "int16", 8)

        def times(value: Expr, multiplier: Expr) -> Expr:
            return intrinsic("int32x4", "smull.v4i32", value, splat(multiplier, LANES))

        words = [
            times(x, a_multiplier) + times(y, b_multiplier)
            for x, y in zip(halves(own, LANES), halves(other, LANES), strict=True)
        ]
        return _pairs([sum_.rounded(word) for word in words])[0]
