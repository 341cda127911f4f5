"""Dot products of few bits: sums stay as narrow as their range allows, so that one instruction adds more products.

The sum over taps is that of `dot.py`. Both operands lie along the elements of A: a step multiplies `size` consecutive
bytes of A by as many weights of one output channel, for a tile of pixels by channels. How wide a sum must be follows
from the bits of weights and activations (`Products.limits`): products are added in their own width for a few steps
(inner), then in twice that for a part of a tap (outer), then in 32 bits. At the end the lanes of a sum are added up.

Weights below 8 bits are packed by `subbyte`. A block of output channels is unpacked into scratch, which stays in the
caches, and serves all pixels from there.

The caller guarantees: bias and scale padded to whole blocks, and `size - 1` readable bytes after the last element of
A (their weights are zero).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels import subbyte
from haqnas.kernels.finish import OWN, RESIDUAL_COLUMN, RESIDUAL_ROW, Finish, Images, Pixels
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, pointer, prim_func, store

BLOCK = 16  # output channels of a block
CHANNELS = 4  # of a register tile


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    PIXELS = OWN  # of the output
    COLUMNS = OWN + 1
    BLOCKS = OWN + 2
    PARTS = OWN + 3
    ROUNDS = OWN + 4  # of unrolled steps in a part
    IN_ROW = OWN + 5
    IN_COLUMN = OWN + 6
    OUT_ROW = OWN + 7
    OUT_COLUMN = OWN + 8
    OFFSETS = OWN + 9  # one per part


class Ending(Protocol):
    """Writes finished pixels."""

    def write(self, pixels: Pixels, images: Images, n: Expr) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Steps that may be added up before a sum of products, or a sum of such sums, could overflow."""

    inner: int
    outer: int


class Products(Protocol):
    """How an instruction set multiplies and adds in few bits."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes of A in a step."""
        ...

    @property
    def lanes(self) -> int:
        """int32 in a register."""
        ...

    @property
    def outer_dtype(self) -> str:
        """Of a register of outer sums, such as int16x16."""
        ...

    def limits(self, act_most: int, weight_most: int) -> Limits:
        """For activations and weights of at most these magnitudes."""
        ...

    def act(self, a: Buffer, index: Expr) -> Expr:
        """Load the operand of one pixel."""
        ...

    def multiply_add(self, inner: Expr | None, act: Expr, weight: Expr) -> Expr:
        """Products of a step, added to those of the steps before."""
        ...

    def widen_add(self, outer: Expr, inner: Expr) -> Expr:
        """An inner sum, added to an outer one."""
        ...

    def totals_add(self, total: Expr, outer: Expr) -> Expr:
        """An outer sum, added to int32."""
        ...

    def across(self, totals: Sequence[Expr]) -> Expr:
        """Sums over the lanes of four registers of int32, as int32x4."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What the code of a kernel is specialised for, besides its finish."""

    products: Products
    pixels: int  # of a tile
    unroll: int  # steps of a round, within the inner limit
    weight_bits: int

    @property
    def symbol(self) -> str:
        """The C name, without the finish."""
        return f"hq_{self.products.name}_{self.pixels}x{BLOCK}_w{self.weight_bits}u{self.unroll}"

    @property
    def is_packed(self) -> bool:
        return self.weight_bits < 8


def steps_of_tap(length: int, size: int) -> int:
    """Steps at a tap of `length` elements."""
    return -(-length // size)


def unrolled(steps: int, inner: int) -> int:
    """Steps of a round: the most that the limit allows and that divide a tap."""
    return next(u for u in (8, 4, 1) if u <= inner and steps % u == 0)


def part_steps(steps: int, unroll: int, outer: int) -> int:
    """Steps of a part: the most that the limit allows, in whole rounds, that divide a tap."""
    rounds = steps // unroll
    allowed = max(1, outer // unroll)
    return unroll * max(d for d in range(1, rounds + 1) if rounds % d == 0 and d <= allowed)


def block_bytes(taps: int, length: int, size: int) -> int:
    """int8 weights of a block."""
    return BLOCK * taps * steps_of_tap(length, size) * size


def pack(weight: np.ndarray, size: int, bits: int) -> np.ndarray:
    """(channels, taps, length) int8 -> packed: block, tile of channels, tap, step, channel, element."""
    channels, taps, length = weight.shape
    blocks, steps = -(-channels // BLOCK), steps_of_tap(length, size)
    padded = np.zeros((blocks * BLOCK, taps, steps * size), np.int8)
    padded[:channels, :, :length] = weight
    split = padded.reshape(blocks, BLOCK // CHANNELS, CHANNELS, taps, steps, size)
    ordered = np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2, 5)).reshape(-1)
    return subbyte.pack(ordered, bits, size) if bits < 8 else ordered


def kernel(plan: Plan, finish: Finish, symbol: str, begin: "Begin") -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] [scratch,] parameters)`; `begin` makes the ending."""
    products, pixels = plan.products, plan.pixels
    lanes = products.lanes

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        p, residual = rest[-1], rest[0] if finish is Finish.UINT8_ADD else None
        ending = begin(p)
        totals = local("int32", pixels * BLOCK)
        out_at, extra_at = local("int32", pixels), local("int32", pixels)
        bytes_ = p[Parameter.PARTS] * p[Parameter.ROUNDS] * (plan.unroll * products.size * BLOCK)

        def block(weights: Buffer, n: Expr) -> None:
            with T.serial(0, T.truncdiv(p[Parameter.PIXELS] + pixels - 1, pixels)) as tile:
                # The last tile overlaps the one before: no pixel is worth a tile of its own.
                first = T.min(tile * pixels, p[Parameter.PIXELS] - pixels)
                sources = []
                for m in range(pixels):
                    row = T.bind(T.truncdiv(first + m, p[Parameter.COLUMNS]))
                    column = T.bind(first + m - row * p[Parameter.COLUMNS])
                    sources.append(pointer(a, row * p[Parameter.IN_ROW] + column * p[Parameter.IN_COLUMN]))
                    store(out_at, row * p[Parameter.OUT_ROW] + column * p[Parameter.OUT_COLUMN], m)
                    if residual is not None:
                        store(extra_at, row * p[RESIDUAL_ROW] + column * p[RESIDUAL_COLUMN], m)
                with T.serial(0, BLOCK // CHANNELS) as part:
                    own = pointer(weights, part * T.truncdiv(bytes_, BLOCK // CHANNELS))
                    sums = _tile(plan, sources, own, p)
                    for m in range(pixels):
                        mine = [load(sums, (m * CHANNELS + c) * lanes, lanes) for c in range(CHANNELS)]
                        start = load(bias, n * BLOCK + part * CHANNELS, CHANNELS)
                        store(totals, products.across(mine) + start, m * BLOCK + part * CHANNELS, CHANNELS)
                finished = Pixels(
                    pixels, totals, lambda m: m * BLOCK, lambda m: out_at[m], lambda m: extra_at[m]
                )
                ending.write(finished, Images(scale, y, residual), n)

        with T.serial(0, p[Parameter.BLOCKS]) as n:
            if plan.is_packed:
                weights, bits, size = rest[-2], plan.weight_bits, products.size
                groups = T.truncdiv(bytes_, subbyte.group_size(bits, size))
                packed_bytes = T.truncdiv(bytes_, 8) * bits
                subbyte.emit_unpack(weights, w, n * packed_bytes, groups, bits, size)
                block(weights, n)
            else:
                block(pointer(w, n * bytes_), n)

    pointers = {
        "a": "uint8",
        "w": "uint8" if plan.is_packed else "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        **finish.pointers,
        **({"unpacked": "int8"} if plan.is_packed else {}),
        "parameters": "int32",
    }
    return prim_func(symbol, pointers, body)


class Begin(Protocol):
    """Makes a kernel's ending from its parameters."""

    def __call__(self, parameters: Buffer) -> Ending: ...


def _tile(plan: Plan, sources: Sequence[Buffer], weights: Buffer, p: Buffer) -> Buffer:
    """int32 sums of a tile of pixels by channels, a register each."""
    products, count = plan.products, len(sources) * CHANNELS
    lanes, size, unroll = products.lanes, products.size, plan.unroll
    sums = local("int32", count * lanes)
    outer_base, outer_lanes = products.outer_dtype.split("x")
    width = int(outer_lanes)
    outer = local(outer_base, count * width)
    step_bytes = CHANNELS * size
    zero = T.broadcast(T.int32(0), lanes)
    for k in range(count):
        store(sums, zero, k * lanes, lanes)
    with T.serial(0, p[Parameter.PARTS]) as part:
        offset = T.bind(p[Parameter.OFFSETS + part])
        starts = [pointer(source, offset) for source in sources]
        own = pointer(weights, part * p[Parameter.ROUNDS] * (unroll * step_bytes))
        for k in range(count):
            store(outer, T.broadcast(T.Cast(outer_base, 0), width), k * width, width)
        with T.serial(0, p[Parameter.ROUNDS]) as step:
            inner: list[Expr | None] = [None] * count
            for u in range(unroll):
                acts = [T.bind(products.act(start, (step * unroll + u) * size)) for start in starts]
                for c in range(CHANNELS):
                    weight = T.bind(load(own, ((step * unroll + u) * CHANNELS + c) * size, size))
                    for m, act in enumerate(acts):
                        k = m * CHANNELS + c
                        inner[k] = T.bind(products.multiply_add(inner[k], act, weight))
            for k, value in enumerate(inner):
                total = products.widen_add(load(outer, k * width, width), value)
                store(outer, total, k * width, width)
        for k in range(count):
            total = products.totals_add(load(sums, k * lanes, lanes), load(outer, k * width, width))
            store(sums, total, k * lanes, lanes)
    return sums
