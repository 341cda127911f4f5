"""A layer with one output pixel on AVX-512 VNNI: bound by reading its weights, once, from memory.

The sum is that of `dot.py`. 128 output channels take four elements of A at a time: eight vectors of weights, which are
`weight_bits` vectors in memory (see `subbyte`). They are unpacked in registers, to the upper bits of bytes: two
instructions for most, since the sign needs none. The sum is that much too large and is shifted down at the end.

Weights are prefetched far ahead: one core reads 14 GB/s without, 29 GB/s so (Sapphire Rapids, 64 MiB of weights).

The caller guarantees: weights packed by `pack`, bias and scale padded to whole blocks, 3 readable bytes after the last
element of A (their weights are zero), and at most LONGEST elements in a sum.
"""

from enum import IntEnum

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels import subbyte
from haqnas.kernels.finish import OWN, Finish, Images, Pixels
from haqnas.kernels.row import Extra, Geometry, Kernel, finish_values, parameters
from haqnas.kernels.tir import Buffer, Expr, PrimFunc, load, local, pointer, prefetch, prim_func, store
from haqnas.kernels.x86_finish import AVX512, PACKED, Narrowing, PackedEpilogue
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS

VECTORS = 8
GROUP = 4  # elements of A in a 32-bit lane
BYTES, LANES = 64, 16
BLOCK = VECTORS * LANES
LONGEST = 1 << 16  # 255 * 127 * LONGEST is below 2**31
AHEAD_BYTES = 8192


class Parameter(IntEnum):
    """Positions in the parameter array, after those of `finish`."""

    BLOCKS = OWN
    TAPS = OWN + 1
    GROUPS = OWN + 2  # of elements of A at a tap
    OFFSETS = OWN + 3


def pack(weight: np.ndarray, bits: int) -> np.ndarray:
    """(channels, taps, length) int8 -> packed: block, tap, group, vector, channel, element."""
    channels, taps, length = weight.shape
    blocks, groups = -(-channels // BLOCK), -(-length // GROUP)
    padded = np.zeros((blocks * BLOCK, taps, groups * GROUP), np.int8)
    padded[:channels, :, :length] = weight
    split = padded.reshape(blocks, VECTORS, LANES, taps, groups, GROUP)
    ordered = np.ascontiguousarray(split.transpose(0, 3, 4, 1, 2, 5)).reshape(-1)
    return subbyte.pack(ordered, bits, BYTES) if bits < 8 else ordered


def kernel(bits: int, finish: Finish, narrowing: Narrowing, symbol: str) -> PrimFunc:
    """`void f(A, W, bias, scale, Y, [residual,] parameters)`."""
    row_bytes = VECTORS * BYTES * bits // 8
    shift = 8 - bits if bits > 1 else 0

    def body(a: Buffer, w: Buffer, bias: Buffer, scale: Buffer, y: Buffer, *rest: Buffer) -> None:
        p, residual = rest[-1], rest[0] if finish is Finish.UINT8_ADD else None
        epilogue = PackedEpilogue.begin(AVX512, finish, narrowing, PACKED, p)
        totals = local("int32", BLOCK)
        width = epilogue.width

        def row_sums(acc: Buffer, act: Expr, first: Expr) -> None:
            for k in range(bits):
                prefetch(w, first + (AHEAD_BYTES + k * BYTES))
            for v, weight in enumerate(subbyte.upper_values(w, first, bits, BYTES, VECTORS)):
                total = load(acc, v * LANES, LANES)
                product = T.call_llvm_pure_intrin(
                    "int32x16", "llvm.x86.avx512.vpdpbusd.512", total, act, weight
                )
                store(acc, product, v * LANES, LANES)

        with T.serial(0, p[Parameter.BLOCKS]) as n:
            acc = local("int32", BLOCK)
            for v in range(VECTORS):
                store(acc, T.broadcast(T.int32(0), LANES), v * LANES, LANES)
            with T.serial(0, p[Parameter.TAPS]) as t:
                source = pointer(a, p[Parameter.OFFSETS + t])
                start = (n * p[Parameter.TAPS] + t) * p[Parameter.GROUPS]
                with T.serial(0, p[Parameter.GROUPS]) as g:
                    four = T.reinterpret("int32", load(source, g * GROUP, GROUP))
                    act = T.bind(T.reinterpret("uint8x64", T.broadcast(four, LANES)))
                    row_sums(acc, act, (start + g) * row_bytes)
            for v in range(VECTORS):
                total = T.shift_right(load(acc, v * LANES, LANES), T.broadcast(T.int32(shift), LANES))
                store(totals, total + load(bias, n * BLOCK + v * LANES, LANES), v * LANES, LANES)
            with T.serial(0, BLOCK // width) as part:
                pixel = Pixels(1, totals, lambda _: part * width, lambda _: 0, lambda _: 0)
                epilogue.write(pixel, Images(scale, y, residual), n * (BLOCK // width) + part)

    pointers = {
        "a": "uint8",
        "w": "uint8" if bits < 8 else "int8",
        "bias": "int32",
        "scale": "float32",
        "y": finish.dtype,
        **finish.pointers,
        "parameters": "int32",
    }
    return prim_func(symbol, pointers, body)


def _row() -> Kernel:
    def narrowing(g: Geometry) -> Narrowing:
        """One form serves all layers: a pixel has few outputs to finish."""
        return Narrowing(moves=True, raises=True, caps=True, may_overflow=not g.is_bounded)

    def symbol(g: Geometry, finish: Finish) -> str:
        return f"hq_gemv_avx512_vnni_w{g.weight_bits}_{finish}{narrowing(g).suffix}"

    def accepts(g: Geometry) -> bool:
        is_short = len(g.offsets) * g.length <= LONGEST
        # A packed 1-bit weight cannot be the zero that pads a group.
        pads = g.weight_bits == 1 and g.length % GROUP
        return g.rows * g.columns == 1 and is_short and not pads

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p = Parameter
        values = finish_values(g) | {
            p.BLOCKS: -(-g.channels // BLOCK),
            p.TAPS: len(g.offsets),
            p.GROUPS: -(-g.length // GROUP),
        }
        return (parameters(values, g.offsets, p.OFFSETS),)

    return Kernel(
        name="gemv/avx512-vnni",
        isa="avx512-vnni",
        kind="dot",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=BLOCK,
        overread_bytes=GROUP - 1,
        act_offset=0,
        accepts=accepts,
        pack=lambda g, weight: pack(weight, g.weight_bits),
        finishes=tuple(Finish),
        function=lambda g, finish: kernel(g.weight_bits, finish, narrowing(g), symbol(g, finish)),
        symbol=symbol,
        extras=extras,
        # Cycles, as in `dot_rows`: two multiplications at a time.
        cost=lambda g: -(-g.channels // BLOCK) * len(g.offsets) * -(-g.length // GROUP) * VECTORS / 2,
        packed_lanes=BYTES,
    )


ROW = _row()
