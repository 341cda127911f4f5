"""Elementwise kernels on Arm: tables, products and sums of bytes that lie next to each other."""

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.neon import CHUNK, LANES, Clamp, halves, intrinsic, joined
from haqnas.kernels.pieces import each_column, each_piece, scalars_at
from haqnas.kernels.tir import (
    AddScalars,
    Buffer,
    Expr,
    PrimFunc,
    added,
    convert,
    load,
    prim_func,
    splat,
    store,
)

QUARTER = 64  # entries that one instruction looks up


def table_kernel() -> PrimFunc:
    """`void f(Y, A, table, parameters)`: a table of 256 bytes in sixteen registers (tbl, tbx)."""

    def body(y: Buffer, a: Buffer, table: Buffer, p: Buffer) -> None:
        registers = [T.bind(load(table, CHUNK * k, CHUNK)) for k in range(256 // CHUNK)]

        def look_up(i: Expr, j: Expr) -> None:
            x = load(a, j, CHUNK)
            result = intrinsic("uint8x16", "tbl4.v16i8", *registers[:4], x)
            for k in range(1, 4):  # an index out of its quarter leaves the byte as it is
                index = x - splat(T.uint8(QUARTER * k), CHUNK)
                result = intrinsic("uint8x16", "tbx4.v16i8", result, *registers[4 * k : 4 * k + 4], index)
            store(y, result, i, CHUNK)

        each_piece(p, 2, CHUNK, look_up)

    pointers = {"y": "uint8", "a": "uint8", "table": "uint8", "parameters": "int32"}
    return prim_func("hq_table_neon", pointers, body)


def add_kernel() -> PrimFunc:
    """`void f(Y, A, B, parameters)`; scalars of `haqnas::qadd`."""

    def body(y: Buffer, a: Buffer, b: Buffer, p: Buffer) -> None:
        scalars = AddScalars.read(p, scalars_at(3))

        def add(i: Expr, j: Expr, k: Expr) -> None:
            store(y, added(load(a, j, CHUNK), load(b, k, CHUNK), scalars, CHUNK), i, CHUNK)

        each_piece(p, 3, CHUNK, add)

    pointers = {"y": "uint8", "a": "uint8", "b": "uint8", "parameters": "int32"}
    return prim_func("hq_add_neon", pointers, body)


def mul_kernel() -> PrimFunc:
    """`void f(Y, A, B, scale, parameters)`; scalars: za, zb, zero point, low, high; loops of `each_column`."""

    def body(y: Buffer, a: Buffer, b: Buffer, scale: Buffer, p: Buffer) -> None:
        at = scalars_at(3)
        za, zb, zero_point, low, high = (p[at + k] for k in range(5))
        bounds = T.cast(zero_point, "int16"), T.cast(low, "uint8"), T.cast(high, "uint8")
        clamp = Clamp(moves=True, clamps=True, is_signed=False)
        factor = T.bind(splat(scale[0], LANES))

        def centred(vector: Expr, zero: Expr) -> list[Expr]:
            """Sixteen bytes -> four int16x4."""
            zeros = splat(T.cast(zero, "int16"), 8)
            return [
                part
                for half in halves(vector, 8)
                for part in halves(convert(half, "int16", 8) - zeros, LANES)
            ]

        def rounded(total: Expr) -> Expr:
            """Half to even; this and every narrowing saturate, so no clamp is needed before them."""
            scaled = convert(total, "float32", LANES) * factor
            word = intrinsic("int32x4", "fcvtns.v4i32.v4f32", scaled)
            return intrinsic("int16x4", "sqxtn.v4i16", word)

        def prepare(k: Expr) -> list[Expr]:
            return [T.bind(part) for part in centred(load(b, k, CHUNK), zb)]

        def multiply(i: Expr, j: Expr, factors: list[Expr]) -> None:
            parts = [
                rounded(intrinsic("int32x4", "smull.v4i32", x, f))
                for x, f in zip(centred(load(a, j, CHUNK), za), factors, strict=True)
            ]
            pairs = [joined(parts[k], parts[k + 1], LANES) for k in (0, 2)]
            store(y, clamp.bytes_of(pairs, bounds), i, CHUNK)

        each_column(p, CHUNK, prepare, multiply)

    pointers = {"y": "uint8", "a": "uint8", "b": "uint8", "scale": "float32", "parameters": "int32"}
    return prim_func("hq_mul_neon", pointers, body)
