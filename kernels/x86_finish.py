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

from haqnas.kernels.finish import ADD, CHANNELS, ZERO_POINT, Epilogue, Finish, Pixels
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

    def narrowed(self, vectors: Sequence[Expr], add: Expr) -> Expr:
        """Four vectors of int32 -> their sum with `add` (a scalar int16) clamped to 0..255, in transposed order."""
        pairs = [
            T.call_llvm_pure_intrin(
                lanes_of("int16", 2 * self.lanes),
                "llvm.sadd.sat",
                self._intrinsic("int16", _PACK_WORDS[self.lanes], vectors[i], vectors[i + 1]),
                splat(add, 2 * self.lanes),
            )
            for i in (0, 2)
        ]
        return self._intrinsic("uint8", _PACK_BYTES[self.lanes], *pairs)

    def ordered(self, value: Expr) -> Expr:
        """Undo the transposition: byte vectors of four pixels (or parts of pixels), one after the other."""
        parts = self.lanes // 4
        words = T.reinterpret(lanes_of("int32", self.lanes), value)
        order = [part * 4 + k for k in range(4) for part in range(parts)]
        return T.reinterpret(lanes_of("uint8", self.size), T.Shuffle([words], order))

    def product_sum(self, pairs: Expr, factors: Expr) -> Expr:
        """Sums of the two products of neighbouring int16, as int32."""
        return self._intrinsic("int32", _MULTIPLY_PAIRS[self.lanes], pairs, factors)

    def dot(self, total: Expr, a: Expr, b: Expr) -> Expr:
        """int32 + sums of four products of uint8 and int8 (VNNI)."""
        return self._intrinsic("int32", _DOT_BYTES[self.lanes], total, a, b)

    def added(self, a: Expr, b: Expr, s: AddScalars) -> Expr:
        """Two byte vectors -> their sum as bytes, by the rule of `haqnas::qadd`."""
        zero = splat(T.uint8(0), self.size)
        words = T.bitwise_or(T.shift_left(s.b_multiplier, 16), T.bitwise_and(s.a_multiplier, 0xFFFF))
        factors = T.reinterpret(lanes_of("int16", 2 * self.lanes), splat(words, self.lanes))
        half = T.shift_left(T.int32(1), s.shift - 1)
        start = half - s.a_zero_point * s.a_multiplier - s.b_zero_point * s.b_multiplier
        totals = []
        for high in (False, True):
            both = unpacked(a, b, self.size, high)
            for upper in (False, True):
                pairs = T.reinterpret(
                    lanes_of("int16", 2 * self.lanes), unpacked(both, zero, self.size, upper)
                )
                total = splat(start, self.lanes) + self.product_sum(pairs, factors)
                totals.append(T.shift_right(total, splat(s.shift, self.lanes)))
        bytes_ = self.narrowed(totals, T.cast(s.zero_point, "int16"))
        low, high = (splat(T.cast(bound, "uint8"), self.size) for bound in (s.low, s.high))
        return T.min(T.max(bytes_, low), high)


AVX512 = Machine(16, True)
AVX2 = Machine(8, False)


@dataclass(frozen=True, slots=True)
class Clamp:
    """The scalars of `haqnas.graph.ops.requantize`."""

    high: Expr  # float32: greatest value before the zero point is added
    zero_point: Expr  # int16
    low: Expr  # uint8

    @classmethod
    def read(cls, parameters: Buffer, first: int) -> Self:
        zero_point, low, high = (parameters[first + k] for k in range(3))
        return cls(T.cast(high - zero_point, "float32"), T.cast(zero_point, "int16"), T.cast(low, "uint8"))


def requantized(machine: Machine, totals: Sequence[Expr], factors: Sequence[Expr], clamp: Clamp) -> Expr:
    """Four vectors of accumulators -> bytes in transposed order, by the rule of `haqnas.graph.ops.requantize`."""
    scaled = []
    for total, factor in zip(totals, factors, strict=True):
        product = convert(total, "float32", machine.lanes) * factor
        scaled.append(machine.rounded(T.min(product, splat(clamp.high, machine.lanes))))
    return T.max(machine.narrowed(scaled, clamp.zero_point), splat(clamp.low, machine.size))


@dataclass(frozen=True, slots=True)
class PackedEpilogue:
    """`finish.Epilogue` for uint8 outputs on x86. Create it once, at the start of the kernel."""

    machine: Machine
    finish: Finish
    vectors: int  # of a pixel: 1, 2 or 4
    clamp: Clamp
    add: AddScalars
    channels: Expr
    tail: Buffer  # bytes of four vectors, where the machine has no masked stores

    @classmethod
    def begin(cls, machine: Machine, finish: Finish, vectors: int, parameters: Buffer) -> Self:
        return cls(
            machine,
            finish,
            vectors,
            Clamp.read(parameters, ZERO_POINT),
            AddScalars.read(parameters, ADD),
            parameters[CHANNELS],
            local("uint8", machine.size),
        )

    def write(self, pixels: Pixels, scale: Buffer, y: Buffer, residual: Buffer | None, n: Expr) -> None:
        """End all `pixels` of block `n` of output channels.

        Reads of `residual` may pass the end of a pixel by less than one vector of bytes.
        """
        lanes, together = self.machine.lanes, PACKED // self.vectors
        block = lanes * self.vectors
        rest = self.channels - n * block
        mask = T.ramp(T.int8(0), T.int8(1), block) < splat(T.cast(T.min(rest, block), "int8"), block)
        with T.serial(0, T.floordiv(pixels.count + together - 1, together)) as group:
            # A group that is not whole ends its last pixel more than once.
            members = [group * together]
            members += [T.min(group * together + k, pixels.count - 1) for k in range(1, together)]
            each = [(m, v) for m in members for v in range(self.vectors)]
            result = self.machine.ordered(
                requantized(
                    self.machine,
                    [load(pixels.totals, pixels.start(m) + v * lanes, lanes) for m, v in each],
                    [load(scale, n * block + v * lanes, lanes) for _, v in each],
                    self.clamp,
                )
            )
            if residual is not None:
                extra = [load(residual, pixels.residual(m) + n * block, block) for m in members]
                joined = extra[0] if together == 1 else T.Shuffle(extra, list(range(self.machine.size)))
                result = self.machine.added(result, joined, self.add)
            parts = [
                result if together == 1 else T.Shuffle([result], list(range(k * block, (k + 1) * block)))
                for k in range(together)
            ]
            targets = [pixels.out(m) + n * block for m in members]
            if self.machine.has_avx512:
                for part, target in zip(parts, targets, strict=True):
                    T.evaluate(tirx.op.masked_store(y, part, T.ramp(target, 1, block), mask))
            else:
                self._store_partly(result, parts, targets, y, rest)

    def _store_partly(
        self, result: Expr, parts: list[Expr], targets: list[Expr], y: Buffer, rest: Expr
    ) -> None:
        block = self.machine.lanes * self.vectors
        with T.If(rest >= block):
            with T.Then():
                for part, target in zip(parts, targets, strict=True):
                    store(y, part, target, block)
            with T.Else():
                store(self.tail, result, 0, self.machine.size)
                for k, target in enumerate(targets):
                    with T.serial(0, rest) as j:
                        store(y, self.tail[k * block + j], target + j)


Ending = Epilogue | PackedEpilogue


def epilogue(machine: Machine, finish: Finish, vectors: int, parameters: Buffer) -> Ending:
    """The ending of a kernel on x86: packed where the output is bytes."""
    if finish is Finish.FLOAT32:
        return Epilogue.begin(finish, machine.lanes, vectors, parameters)
    return PackedEpilogue.begin(machine, finish, vectors, parameters)
