"""How a tile ends on x86: four vectors of accumulators become one vector of bytes.

Narrowing by saturating packs takes three instructions for four vectors where `vpmovdb` takes eight, and clamps to
0..255 on the way. Packs work inside 128-bit parts, so four vectors come out as a transposition of 32-bit words, which
one permutation undoes. The four vectors are those of one, two or four pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import tvm_ffi
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.finish import ADD, CHANNELS, ZERO_POINT, Finish, Images, Pixels
from haqnas.kernels.row import Geometry
from haqnas.kernels.tir import AddScalars, Buffer, Expr, convert, lanes_of, load, local, splat, store

PACKED = 4  # vectors of int32 that become one of bytes


def unpacked(a: Expr, b: Expr, size: int, high: bool) -> Expr:
    """Interleave the low or high half of each 128-bit part of two vectors of `size` bytes."""
    indices = []
    for part in range(0, size, 16):
        for k in range(part + 8 * high, part + 8 * high + 8):
            indices += [k, size + k]
    return T.Shuffle([a, b], indices)


# LLVM's names by the number of int32 in a vector.
_PACK_WORDS = {4: "sse2.packssdw.128", 8: "avx2.packssdw", 16: "avx512.packssdw.512"}
_PACK_BYTES = {4: "sse2.packuswb.128", 8: "avx2.packuswb", 16: "avx512.packuswb.512"}
_MULTIPLY_PAIRS = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}
_DOT_BYTES = {4: "avx512.vpdpbusd.128", 8: "avx512.vpdpbusd.256", 16: "avx512.vpdpbusd.512"}


@dataclass(frozen=True, slots=True)
class Machine:
    """Vectors of `lanes` int32 and the instructions that narrow them; `has_avx512`: with masks and byte products."""

    lanes: int
    has_avx512: bool

    @property
    def size(self) -> int:
        """Bytes of a vector."""
        return 4 * self.lanes

    def _intrinsic(self, dtype: str, name: str, *arguments: Expr) -> Expr:
        lanes = self.size // (tvm_ffi.dtype(dtype).bits // 8)
        return T.call_llvm_pure_intrin(lanes_of(dtype, lanes), f"llvm.x86.{name}", *arguments)

    def rounded(self, value: Expr) -> Expr:
        """float32 -> int32, half to even; below the range of int32 the result is its least value."""
        if self.lanes == 16:
            none = splat(T.int32(0), 16)
            return self._intrinsic("int32", "avx512.mask.cvtps2dq.512", value, none, T.int16(-1), T.int32(4))
        return self._intrinsic("int32", "avx.cvt.ps2dq.256" if self.lanes == 8 else "sse2.cvtps2dq", value)

    def narrowed(self, vectors: Sequence[Expr], add: Expr | None = None, *, saturates: bool = False) -> Expr:
        """Four vectors of int32 -> their sum with `add` (a scalar int16) clamped to 0..255, in transposed order.

        The sum is formed in 16 bits; it may only leave them where it `saturates`, which costs more.
        """
        pairs = [self._intrinsic("int16", _PACK_WORDS[self.lanes], *vectors[i : i + 2]) for i in (0, 2)]
        if add is not None:
            words = splat(add, 2 * self.lanes)
            pairs = [self._saturated_sum(pair, words) if saturates else pair + words for pair in pairs]
        return self._intrinsic("uint8", _PACK_BYTES[self.lanes], *pairs)

    def _saturated_sum(self, a: Expr, b: Expr) -> Expr:
        return T.call_llvm_pure_intrin(lanes_of("int16", 2 * self.lanes), "llvm.sadd.sat", a, b)

    def ordered(self, value: Expr) -> Expr:
        """Undo the transposition: byte vectors of four pixels (or parts of pixels), one after the other."""
        words = T.reinterpret(lanes_of("int32", self.lanes), value)
        return T.reinterpret(lanes_of("uint8", self.size), T.Shuffle([words], self._order))

    @property
    def _order(self) -> list[int]:
        parts = self.lanes // 4
        return [part * 4 + k for k in range(4) for part in range(parts)]

    def ordered_alone(self, value: Expr, s: AddScalars) -> Expr:
        """As `ordered`, for what is interleaved next.

        LLVM would merge this permutation with both interleavings into two of the bytes of two vectors (vpermt2b), each
        three instructions inside an Intel CPU. So it must not know the order: the shift of a sum is below 256.
        """
        if self.lanes != 16:
            return self.ordered(value)
        hidden = splat(T.shift_right(s.shift, 8), self.lanes)
        order = T.Shuffle([T.int32(k) for k in self._order], list(range(self.lanes))) + hidden
        words = T.reinterpret(lanes_of("int32", self.lanes), value)
        moved = self._intrinsic("int32", "avx512.permvar.si.512", words, order)
        return T.reinterpret(lanes_of("uint8", self.size), moved)

    def product_sum(self, pairs: Expr, factors: Expr) -> Expr:
        """Sums of the two products of neighbouring int16, as int32."""
        return self._intrinsic("int32", _MULTIPLY_PAIRS[self.lanes], pairs, factors)

    def dot(self, total: Expr, a: Expr, b: Expr) -> Expr:
        """int32 + sums of four products of uint8 and int8 (VNNI)."""
        return self._intrinsic("int32", _DOT_BYTES[self.lanes], total, a, b)

    def added(self, a: Expr, b: Expr, s: AddScalars, parts: "SumParts") -> Expr:
        """Two byte vectors -> their sum as bytes, by the rule of `haqnas::qadd`."""
        zero = splat(T.uint8(0), self.size)
        words = T.bitwise_or(T.shift_left(s.b_multiplier, 16), T.bitwise_and(s.a_multiplier, 0xFFFF))
        factors = T.reinterpret(lanes_of("int16", 2 * self.lanes), splat(words, self.lanes))
        half = T.shift_left(T.int32(1), s.shift - 1)
        start = half - s.a_zero_point * s.a_multiplier - s.b_zero_point * s.b_multiplier
        if not parts.moves_late:
            start = start + T.shift_left(s.zero_point, s.shift)
        totals = []
        for high in (False, True):
            both = unpacked(a, b, self.size, high)
            for upper in (False, True):
                pairs = T.reinterpret(
                    lanes_of("int16", 2 * self.lanes), unpacked(both, zero, self.size, upper)
                )
                total = splat(start, self.lanes) + self.product_sum(pairs, factors)
                totals.append(T.shift_right(total, splat(s.shift, self.lanes)))
        late = T.cast(s.zero_point, "int16") if parts.moves_late else None
        bytes_ = self.narrowed(totals, late, saturates=True)
        if not parts.clamps:
            return bytes_
        low, high = (splat(T.cast(bound, "uint8"), self.size) for bound in (s.low, s.high))
        return T.min(T.max(bytes_, low), high)


AVX512 = Machine(16, True)
AVX2 = Machine(8, False)


@dataclass(frozen=True, slots=True)
class SumParts:
    """Which parts of a sum a kernel has code for."""

    clamps: bool  # the least output is not 0, or the greatest not 255
    moves_late: bool  # the zero point is added after the shift: before it, it would leave 32 bits

    @classmethod
    def of(cls, scalars: Sequence[int]) -> Self:
        """The parts that a sum with these scalars of `haqnas::qadd` needs."""
        shift, _, low, high = scalars[4:]
        return cls((low, high) != (0, 255), shift > _GREATEST_EARLY_SHIFT)

    @property
    def letters(self) -> str:
        """For names of functions."""
        return "c" * self.clamps + "m" * self.moves_late


# Products stay below 2**24, a zero point below 2**8.
_GREATEST_EARLY_SHIFT = 22
EVERY_SUM = SumParts(clamps=True, moves_late=True)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Which parts of a requantization, and of the sum that may follow it, a kernel has code for."""

    moves: bool  # the zero point is not 0
    raises: bool  # the least output is not 0
    caps: bool  # the greatest output is not 255
    may_overflow: bool  # accumulator * scale may leave the range of int32
    sum: SumParts | None = None

    @classmethod
    def of(cls, zero_point: int, low: int, high: int, is_bounded: bool, sum_: SumParts | None = None) -> Self:
        """The parts that a layer needs."""
        return cls(zero_point != 0, low != 0, high != 255, not is_bounded, sum_)

    @classmethod
    def of_layer(cls, g: Geometry) -> Self:
        """How a layer's accumulators become bytes."""
        if g.takes_any_ending:
            return cls(True, True, True, not g.is_bounded, EVERY_SUM if g.residual else None)
        sum_ = SumParts.of(g.residual.scalars) if g.residual else None
        return cls.of(g.zero_point, g.low, g.high, g.is_bounded, sum_)

    @property
    def suffix(self) -> str:
        """For names of functions."""
        parts = {"z": self.moves, "l": self.raises, "h": self.caps, "w": self.may_overflow}
        letters = "".join(letter for letter, is_used in parts.items() if is_used)
        letters += self.sum.letters if self.sum else ""
        return "_" + letters if letters else ""


@dataclass(frozen=True, slots=True)
class Clamp:
    """The scalars of `haqnas.graph.ops.requantize`."""

    narrowing: Narrowing
    zero_point: Expr
    low: Expr
    high: Expr

    @classmethod
    def read(cls, narrowing: Narrowing, parameters: Buffer, first: int) -> Self:
        """Read zero point, low and high."""
        return cls(narrowing, *(parameters[first + k] for k in range(3)))


def requantized(machine: Machine, totals: Sequence[Expr], factors: Sequence[Expr], clamp: Clamp) -> Expr:
    """Four vectors of accumulators -> bytes in transposed order, by the rule of `haqnas.graph.ops.requantize`."""
    parts = clamp.narrowing
    scaled = [convert(t, "float32", machine.lanes) * f for t, f in zip(totals, factors, strict=True)]
    if parts.may_overflow:  # too small becomes the least int32, which is right; too large would, too
        greatest = splat(T.cast(clamp.high - clamp.zero_point, "float32"), machine.lanes)
        scaled = [T.min(value, greatest) for value in scaled]
    rounded = [machine.rounded(value) for value in scaled]
    add = T.cast(clamp.zero_point, "int16") if parts.moves else None
    result = machine.narrowed(rounded, add, saturates=not parts.may_overflow)
    if parts.raises:
        result = T.max(result, splat(T.cast(clamp.low, "uint8"), machine.size))
    if parts.caps and not parts.may_overflow:
        result = T.min(result, splat(T.cast(clamp.high, "uint8"), machine.size))
    return result


@dataclass(frozen=True, slots=True)
class Block:
    """A block of output channels, which may be cut off by the end of the channels."""

    first: Expr  # channel
    rest: Expr  # channels that are left, of this block and those after it
    masks: tuple[Expr, ...]  # channels to store: of the block (bytes), or of each vector (float32)


@dataclass(frozen=True, slots=True)
class PackedEpilogue:
    """What `finish.Epilogue` is elsewhere: ends pixels in groups of four vectors. Create it at the kernel's start."""

    machine: Machine
    finish: Finish
    vectors: int  # of a pixel: 1, 2 or 4
    clamp: Clamp
    add: AddScalars
    channels: Expr
    tail: Buffer  # one group, where the machine has no masked stores

    @classmethod
    def begin(
        cls, machine: Machine, finish: Finish, narrowing: Narrowing, vectors: int, parameters: Buffer
    ) -> Self:
        """Read the scalars."""
        return cls(
            machine,
            finish,
            vectors,
            Clamp.read(narrowing, parameters, ZERO_POINT),
            AddScalars.read(parameters, ADD),
            parameters[CHANNELS],
            local(finish.dtype, machine.size),
        )

    @property
    def together(self) -> int:
        """Pixels of a group."""
        return PACKED // self.vectors

    @property
    def width(self) -> int:
        """Channels of a block."""
        return self.machine.lanes * self.vectors

    def groups(self, pixels: Expr) -> Expr:
        """Groups that so many pixels make."""
        return T.truncdiv(pixels + self.together - 1, self.together)

    def block(self, n: Expr) -> Block:
        """Block number `n`."""
        first = n * self.width
        rest = self.channels - first
        lanes = self.machine.lanes if self.finish is Finish.FLOAT32 else self.width
        left = splat(T.cast(T.min(rest, self.width), "int8"), lanes)
        starts = range(0, self.width, lanes)
        masks = [T.ramp(T.int8(start), T.int8(1), lanes) < left for start in starts]
        return Block(first, rest, tuple(masks))

    def write(self, pixels: Pixels, images: Images, n: Expr) -> None:
        """End all `pixels` of block `n`. Of the residual up to a vector of bytes past a pixel's end is read.

        One group after the other, not a loop: totals stay in registers, and the next tile's products begin before these
        are stored. Through memory a tile of 14 x 32 took 27 cycles more (Zen 5).
        """
        block = self.block(n)
        for first in range(0, pixels.count, self.together):
            members = [min(first + k, pixels.count - 1) for k in range(self.together)]
            self.write_members(pixels, members, images, block)

    def write_members(
        self, pixels: Pixels, members: Sequence[Expr], images: Images, block: Block, is_dense: bool = False
    ) -> None:
        """End the pixels of one group; `is_dense`: whole blocks that lie one after the other."""
        lanes = self.machine.lanes
        each = [(m, v) for m in members for v in range(self.vectors)]
        totals = [load(pixels.totals, pixels.start(m) + v * lanes, lanes) for m, v in each]
        factors = [load(images.scale, block.first + v * lanes, lanes) for _, v in each]
        targets = [pixels.out(m) + block.first for m in members]
        if self.finish is Finish.FLOAT32:
            values = [convert(t, "float32", lanes) * f for t, f in zip(totals, factors, strict=True)]
            places = [target + v * lanes for target in targets for v in range(self.vectors)]
            self._store(values, places, images.y, block)
            return
        transposed = requantized(self.machine, totals, factors, self.clamp)
        if images.residual is None:
            result = self.machine.ordered(transposed)
        else:
            own = self.machine.ordered_alone(transposed, self.add)
            if is_dense:
                joined = load(images.residual, pixels.residual(members[0]), self.machine.size)
            else:
                extra = [load(images.residual, pixels.residual(m) + block.first, self.width) for m in members]
                joined = extra[0] if self.together == 1 else T.Shuffle(extra, list(range(self.machine.size)))
            result = self.machine.added(own, joined, self.add, self.clamp.narrowing.sum or EVERY_SUM)
        if is_dense:
            store(images.y, result, targets[0], self.machine.size)
            return
        parts = [
            T.Shuffle([result], list(range(k * self.width, (k + 1) * self.width)))
            for k in range(self.together)
        ]
        self._store([result] if self.together == 1 else parts, targets, images.y, block)

    def _store(self, values: list[Expr], places: list[Expr], y: Buffer, block: Block) -> None:
        """Store equal parts of a group: its pixels, or its vectors."""
        size = self.machine.size // len(values) if self.finish is not Finish.FLOAT32 else self.machine.lanes
        if self.machine.has_avx512:
            for k, (value, place) in enumerate(zip(values, places, strict=True)):
                mask = block.masks[k % len(block.masks)]
                T.evaluate(tirx.op.masked_store(y, value, T.ramp(place, 1, size), mask))
            return
        with T.If(block.rest >= self.width):
            with T.Then():
                for value, place in zip(values, places, strict=True):
                    store(y, value, place, size)
            with T.Else():
                for k, value in enumerate(values):
                    store(self.tail, value, k * size, size)
                for k in range(self.together):
                    with T.serial(0, block.rest) as j:
                        store(y, self.tail[k * self.width + j], places[k * len(places) // self.together] + j)
