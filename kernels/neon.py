"""Vector instructions of 64-bit Arm as TIR expressions, and the finish of an accumulator written with them.

Types are fixed: four int32, eight int16 or sixteen bytes fill a register. LLVM turns the patterns below into the one
instruction that each comment names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import ADD, ZERO_POINT, Finish
from haqnas.kernels.row import Geometry, Residual
from haqnas.kernels.tir import Buffer, Expr, convert, splat

LANES = 4  # int32 in a register
CHUNK = 16  # bytes in a register
MOST_NARROWING_SHIFT = 16
UNITS = 3 << 22  # float32 numbers near it are whole


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

    moves: bool  # it adds the zero point to 16-bit numbers
    clamps: bool  # low .. high is not all that a byte holds
    is_signed: bool = False  # x - 128 is stored, and so are the zero point, low and high
    is_short: bool = False  # the numbers before it fit 16 bits

    @classmethod
    def of_layer(cls, g: Geometry) -> "Clamp":
        """The parts that a layer needs."""
        if g.takes_any_ending:
            return cls(True, True, g.writes_signed, g.is_short)
        return cls.of(g.zero_point, g.low, g.high, g.writes_signed, g.is_short)

    @classmethod
    def of(
        cls, zero_point: int, low: int, high: int, is_signed: bool = False, is_short: bool = False
    ) -> "Clamp":
        """`is_short`: of accumulators whose rounding adds an even zero point (see `Ending.rounded`)."""
        moves = zero_point % 2 != 0 if is_short else is_signed or zero_point != 0
        return cls(moves, (low, high) != (0, 255), is_signed, is_short)

    @property
    def suffix(self) -> str:
        flags = (("h", self.is_short), ("s", self.is_signed), ("z", self.moves), ("c", self.clamps))
        return "".join(letter for letter, is_set in flags if is_set)

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

    shift: int | None  # None: read at run time
    moves: bool  # the convolution's own zero point is not the one that the sum takes off again
    reads_signed: bool  # the other image is stored as x - 128
    clamp: Clamp

    @classmethod
    def of_layer(cls, g: Geometry, residual: Residual) -> "Sum":
        """The parts that a layer needs which adds `residual`."""
        if g.takes_any_ending:
            return cls(None, True, residual.is_signed, Clamp(True, True, g.writes_signed))
        a_zero, _, _, _, shift, *bounds = residual.scalars
        clamp = Clamp.of(bounds[0], bounds[1], bounds[2], g.writes_signed)
        return cls(shift, g.zero_point != a_zero, residual.is_signed, clamp)

    @property
    def suffix(self) -> str:
        flags = ("m" if self.moves else "") + ("r" if self.reads_signed else "")
        return f"{'' if self.shift is None else self.shift}{flags}{self.clamp.suffix}"

    def rounded(self, word: Expr, shift: Expr) -> Expr:
        """int32x4 >> shift, rounded half up, as int16x4 (sqrshrn, which shifts by a constant of 1 .. 16)."""
        if self.shift is not None and self.shift <= MOST_NARROWING_SHIFT:
            return intrinsic("int16x4", "sqrshrn.v4i16", word, T.int32(self.shift))
        shifted = intrinsic("int32x4", "srshl.v4i32", word, splat(-shift, LANES))
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
    operands: tuple[
        Expr, ...
    ]  # of a sum: two multipliers int16, the residual's zero point as it is stored, the shift
    sum_bounds: tuple[Expr, Expr, Expr]
    rounder: Expr  # float32

    @classmethod
    def begin(cls, finish: Finish, clamp: Clamp, sum_: Sum | None, parameters: Buffer) -> "Ending":
        """`sum_` for a kernel that adds another image."""
        zero_point, low, high = (parameters[ZERO_POINT + k] for k in range(3))
        a_zero, a_multiplier, b_zero, b_multiplier, shift = (parameters[ADD + k] for k in range(5))
        stored = zero_point - (128 if clamp.is_signed else 0)
        rounder = T.int32(UNITS) if sum_ or clamp.moves else UNITS + stored
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
            (T.cast(a_multiplier, "int16"), T.cast(b_multiplier, "int16"), opaque, shift),
            (sum_.clamp if sum_ else clamp).bounds(parameters, ADD + 5),
            T.cast(rounder, "float32"),
        )

    @property
    def width(self) -> int:
        """Most elements that `finished` makes at once."""
        return LANES if self.finish is Finish.FLOAT32 else CHUNK

    def rounded(self, scaled: Sequence[Expr]) -> list[Expr]:
        """float32x4, an even number -> int16x8, half as many, rounded half to even.

        fcvtns and sqxtn saturate. Numbers that fit 16 bits need neither: a large even number is added, whose float32
        ends at the units, so the addition rounds; the low halves of the sums are the results (uzp1). It adds an even
        zero point on the way. The fence keeps LLVM from rounding product and sum at once (fmla).
        """
        if not self.clamp.is_short:
            words = [intrinsic("int32x4", "fcvtns.v4i32.v4f32", value) for value in scaled]
            return _pairs([intrinsic("int16x4", "sqxtn.v4i16", word) for word in words])
        fenced = [T.call_llvm_pure_intrin("float32x4", "llvm.arithmetic.fence", value) for value in scaled]
        sums = [T.reinterpret("int16x8", value + splat(self.rounder, LANES)) for value in fenced]
        even = list(range(0, 16, 2))
        return [T.Shuffle([sums[i], sums[i + 1]], even) for i in range(0, len(sums), 2)]

    def finished(self, totals: Sequence[Expr], scales: Sequence[Expr], residual: Expr | None) -> Expr:
        """int32x4 accumulators (one for float32, else two or four) -> what is stored, as one vector."""
        scaled = [
            convert(total, "float32", LANES) * scale for total, scale in zip(totals, scales, strict=True)
        ]
        if self.finish is Finish.FLOAT32:
            return scaled[0]
        pairs = self.rounded(scaled)
        if self.sum is None or residual is None:
            return self.clamp.bytes_of(pairs, self.bounds)
        parts = [residual] if len(pairs) == 1 else halves(residual, 8)
        added = [self._added(self.sum, own, other) for own, other in zip(pairs, parts, strict=True)]
        return self.sum.clamp.bytes_of(added, self.sum_bounds)

    def _added(self, sum_: Sum, own: Expr, other: Expr) -> Expr:
        """int16x8 without its zero point, bytes -> their sum without its zero point (usubl, smull, smlal)."""
        low, high, move = self.centred
        a_multiplier, b_multiplier, b_zero, shift = self.operands
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
        return _pairs([sum_.rounded(word, shift) for word in words])[0]
