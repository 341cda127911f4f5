"""Rows of the kernel table whose sums are as narrow as the bits of a layer allow, on AVX2 and NEON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels import narrow
from haqnas.kernels.finish import CHANNELS, Finish, Images, Pixels
from haqnas.kernels.narrow import BLOCK, Begin, Limits, Plan, Products
from haqnas.kernels.neon import CHUNK, Clamp, Ending, Sum, halves, intrinsic, signed
from haqnas.kernels.row import Extra, Geometry, Kernel, Scratch, finish_values, parameters
from haqnas.kernels.tir import Buffer, Expr, load, local, store
from haqnas.kernels.x86_finish import AVX2, Narrowing, PackedEpilogue
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS, act_range, weight_range

PIXELS = 3  # of a tile: 3 x 4 sums of two widths, operands, and no register to spare
_INT8, _INT16 = 2**7 - 1, 2**15 - 1
ENDLESS = 1 << 20


@dataclass(frozen=True, slots=True)
class Maddubs:
    """AVX2: vpmaddubsw adds pairs of products in 16 bits; exact where they fit, and so for all but 8 x 8 bits."""

    name: str = "maddubs"
    size: int = 32
    lanes: int = 8
    outer_dtype: str = "int16x16"

    def limits(self, act_most: int, weight_most: int) -> Limits:
        return Limits(1, _INT16 // (2 * act_most * weight_most))

    def act(self, a: Buffer, index: Expr) -> Expr:
        return load(a, index, self.size)

    def multiply_add(self, inner: Expr | None, act: Expr, weight: Expr) -> Expr:
        assert inner is None, "one step a round"
        return T.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", act, weight)

    def widen_add(self, outer: Expr, inner: Expr) -> Expr:
        return outer + inner

    def totals_add(self, total: Expr, outer: Expr) -> Expr:
        ones = T.broadcast(T.int16(1), 16)
        return total + T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.pmadd.wd", outer, ones)

    def across(self, totals: Sequence[Expr]) -> Expr:
        def paired(x: Expr, y: Expr) -> Expr:
            return T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.phadd.d", x, y)

        a, b, c, d = totals
        both = T.bind(paired(paired(a, b), paired(c, d)))
        low, high = halves(both, 4)
        return low + high


def _across_neon(totals: Sequence[Expr]) -> Expr:
    def paired(x: Expr, y: Expr) -> Expr:
        return intrinsic("int32x4", "addp.v4i32", x, y)

    a, b, c, d = totals
    return paired(paired(a, b), paired(c, d))


@dataclass(frozen=True, slots=True)
class Mla:
    """NEON: sixteen products of 8 bits in one instruction (mla), widened in pairs (sadalp) before they overflow."""

    name: str = "mla"
    size: int = CHUNK
    lanes: int = 4
    outer_dtype: str = "int16x8"

    def limits(self, act_most: int, weight_most: int) -> Limits:
        most = act_most * weight_most
        return Limits(_INT8 // most, _INT16 // (2 * most))

    def act(self, a: Buffer, index: Expr) -> Expr:
        return T.reinterpret("int8x16", load(a, index, CHUNK))

    def multiply_add(self, inner: Expr | None, act: Expr, weight: Expr) -> Expr:
        return act * weight if inner is None else inner + act * weight

    def widen_add(self, outer: Expr, inner: Expr) -> Expr:
        return outer + intrinsic("int16x8", "saddlp.v8i16.v16i8", inner)

    def totals_add(self, total: Expr, outer: Expr) -> Expr:
        return total + intrinsic("int32x4", "saddlp.v4i32.v8i16", outer)

    def across(self, totals: Sequence[Expr]) -> Expr:
        return _across_neon(totals)


@dataclass(frozen=True, slots=True)
class Smlal:
    """NEON: products in 16 bits (smlal, smlal2), several steps of them before sadalp."""

    is_signed: bool  # A - 128 is multiplied: for 8 bits
    size: int = CHUNK
    lanes: int = 4
    outer_dtype: str = "int32x4"

    @property
    def name(self) -> str:
        return "smlal_signed" if self.is_signed else "smlal"

    def limits(self, act_most: int, weight_most: int) -> Limits:
        return Limits(_INT16 // (2 * (128 if self.is_signed else act_most) * weight_most), ENDLESS)

    def act(self, a: Buffer, index: Expr) -> Expr:
        value = load(a, index, CHUNK)
        return signed(value) if self.is_signed else T.reinterpret("int8x16", value)

    def multiply_add(self, inner: Expr | None, act: Expr, weight: Expr) -> Expr:
        total = inner
        for x, y in zip(halves(act, 8), halves(weight, 8), strict=True):
            product = intrinsic("int16x8", "smull.v8i16", x, y)
            total = product if total is None else total + product
        return total

    def widen_add(self, outer: Expr, inner: Expr) -> Expr:
        return outer + intrinsic("int32x4", "saddlp.v4i32.v8i16", inner)

    def totals_add(self, total: Expr, outer: Expr) -> Expr:
        return total + outer

    def across(self, totals: Sequence[Expr]) -> Expr:
        return _across_neon(totals)


@dataclass(frozen=True, slots=True)
class NeonEpilogue:
    """Ends pixels whose totals lie in memory."""

    ending: Ending
    tail: Buffer
    channels: Expr

    def write(self, pixels: Pixels, images: Images, n: Expr) -> None:
        """End all `pixels` of block `n`; of the residual nothing is read that is not added."""
        width = self.ending.width
        scale, y, residual = images.scale, images.y, images.residual

        def finished(m: Expr, first: int, extra: Expr | None) -> Expr:
            parts = range(first, first + width, 4)
            totals = [load(pixels.totals, pixels.start(m) + k, 4) for k in parts]
            return self.ending.finished(totals, [load(scale, n * BLOCK + k, 4) for k in parts], extra)

        with T.If((n + 1) * BLOCK <= self.channels):
            with T.Then(), T.serial(0, pixels.count) as m:
                for first in range(0, BLOCK, width):
                    at = n * BLOCK + first
                    extra = None if residual is None else load(residual, pixels.residual(m) + at, width)
                    store(y, finished(m, first, extra), pixels.out(m) + at, width)
            with T.Else(), T.serial(0, pixels.count) as m:
                exist = self.channels - n * BLOCK
                if residual is not None:
                    with T.serial(0, exist) as j:
                        store(self.tail, residual[pixels.residual(m) + n * BLOCK + j], j)
                for first in range(0, BLOCK, width):
                    extra = None if residual is None else load(self.tail, first, width)
                    store(self.tail, finished(m, first, extra), first, width)
                with T.serial(0, exist) as j:
                    store(y, self.tail[j], pixels.out(m) + n * BLOCK + j)


# Endings have code for every zero point and clamp: they are a small part of a kernel with many products, and a function
# for each combination would be left out of large networks (`budget`).


def _narrowing(g: Geometry) -> Narrowing:
    return Narrowing(moves=True, raises=True, caps=True, may_overflow=not g.is_bounded)


def _avx2_begin(g: Geometry, finish: Finish) -> Begin:
    return lambda p: PackedEpilogue.begin(AVX2, finish, _narrowing(g), BLOCK // AVX2.lanes, p)


def _avx2_suffix(g: Geometry) -> str:
    return _narrowing(g).suffix


_ANY_CLAMP = Clamp(moves=True, clamps=True, is_signed=False)


_ANY_SUM = Sum(shift=None, moves=True, reads_signed=False, clamp=_ANY_CLAMP)


def _neon_begin(g: Geometry, finish: Finish) -> Begin:
    return lambda p: NeonEpilogue(
        Ending.begin(finish, _ANY_CLAMP, _ANY_SUM if g.residual else None, p),
        local(finish.dtype, BLOCK),
        p[CHANNELS],
    )


@dataclass(frozen=True, slots=True)
class Family:
    """What the rows of one kind of products share."""

    isa: str
    products: Products
    act_bits: range
    act_offset: int
    least_inner: int
    least_outer: int  # steps, below which a row of `dot` is better
    share: float  # of the time that the same instruction set takes for 8 bits
    begin: Callable[[Geometry, Finish], Begin]
    suffix: Callable[[Geometry], str]  # of names of functions


def row(family: Family) -> Kernel:
    """The row of a family."""
    products, size = family.products, family.products.size

    def limits(g: Geometry) -> Limits:
        return products.limits(act_range(g.act_bits)[1], weight_range(g.weight_bits)[1])

    def steps(g: Geometry) -> int:
        return narrow.steps_of_tap(g.length, size)

    def plan(g: Geometry) -> Plan:
        pixels = PIXELS if g.rows * g.columns >= PIXELS else 1
        return Plan(products, pixels, narrow.unrolled(steps(g), limits(g).inner), g.weight_bits)

    def accepts(g: Geometry) -> bool:
        # A packed 1-bit weight cannot be the zero that pads a step.
        pads = g.weight_bits == 1 and g.length % size
        return limits(g).inner >= family.least_inner and limits(g).outer >= family.least_outer and not pads

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, unroll = narrow.Parameter, plan(g).unroll
        part = narrow.part_steps(steps(g), unroll, limits(g).outer)
        offsets = tuple(tap + k * size for tap in g.offsets for k in range(0, steps(g), part))
        values = finish_values(g) | {
            p.PIXELS: g.rows * g.columns,
            p.COLUMNS: g.columns,
            p.BLOCKS: -(-g.channels // BLOCK),
            p.PARTS: len(offsets),
            p.ROUNDS: part // unroll,
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
        }
        numbers = parameters(values, offsets, p.OFFSETS)
        if g.weight_bits == 8:
            return (numbers,)
        return Scratch(narrow.block_bytes(len(g.offsets), g.length, size)), numbers

    def symbol(g: Geometry, finish: Finish) -> str:
        return f"{plan(g).symbol}_{finish}{family.suffix(g)}"

    def cost(g: Geometry) -> float:
        """Channels that the plain kernel would compute in the same time; adding up lanes takes three steps."""
        padded = -(-g.channels // BLOCK) * BLOCK
        return family.share * padded * size * (len(g.offsets) * steps(g) + 3) / (len(g.offsets) * g.length)

    def pack(g: Geometry, weight: np.ndarray) -> np.ndarray:
        return narrow.pack(weight, size, g.weight_bits)

    return Kernel(
        name=f"narrow/{family.isa}/{products.name}",
        isa=family.isa,
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=family.act_bits,
        block=BLOCK,
        overread_bytes=size - 1,
        act_offset=family.act_offset,
        accepts=accepts,
        pack=pack,
        finishes=tuple(Finish),
        function=lambda g, finish: narrow.kernel(plan(g), finish, symbol(g, finish), family.begin(g, finish)),
        symbol=symbol,
        extras=extras,
        cost=cost,
        packed_lanes=size,
    )


_FEW, _EIGHT = range(ACT_BITS.start, 8), range(8, 9)
AVX2_ROWS = (row(Family("avx2", Maddubs(), ACT_BITS, 0, 1, 2, 0.5, _avx2_begin, _avx2_suffix)),)
NEON_ROWS = (
    row(Family("neon", Mla(), _FEW, 0, 1, 1, 0.4, _neon_begin, lambda _: "")),
    row(Family("neon", Smlal(is_signed=False), _FEW, 0, 2, 1, 0.7, _neon_begin, lambda _: "")),
    row(Family("neon", Smlal(is_signed=True), _EIGHT, 128, 2, 1, 0.7, _neon_begin, lambda _: "")),
)
