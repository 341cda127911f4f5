"""Elementwise kernels on x86: tables, products and sums of bytes that lie next to each other."""

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.pieces import each_column, each_piece, scalars_at
from haqnas.kernels.tir import (
    AddScalars,
    Buffer,
    Expr,
    PrimFunc,
    lanes_of,
    load,
    prim_func,
    splat,
    store,
)
from haqnas.kernels.x86_finish import EVERY_SUM, Clamp, Machine, Narrowing, requantized, unpacked

TABLE_POINTERS = {"y": "uint8", "a": "uint8", "table": "uint8", "parameters": "int32"}
_SHUFFLE = {8: "avx2.pshuf.b", 16: "avx512.pshuf.b.512"}  # by int32 in a vector
NIBBLE = 16  # entries that one byte shuffle looks up
HALF = 128


def permuted_table_kernel() -> PrimFunc:
    """`void f(Y, A, table, parameters)`: a table of 256 bytes in four registers (AVX-512 VBMI).

    A permutation of two registers looks up seven bits of 64 bytes; the eighth chooses between two of them.
    """

    def body(y: Buffer, a: Buffer, table: Buffer, p: Buffer) -> None:
        quarters = [T.bind(load(table, 64 * k, 64)) for k in range(4)]

        def look_up(i: Expr, j: Expr) -> None:
            x = load(a, j, 64)
            low, high = (
                T.call_llvm_pure_intrin(
                    "uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", quarters[2 * k], x, quarters[2 * k + 1]
                )
                for k in (0, 1)
            )
            is_low = T.reinterpret("int8x64", x) >= splat(T.int8(0), 64)
            store(y, T.Select(is_low, low, high), i, 64)

        each_piece(p, 2, 64, look_up)

    return prim_func("hq_table_vbmi", TABLE_POINTERS, body)


def shuffled_table(table: np.ndarray) -> np.ndarray:
    """Entry [16 k + i] becomes table[16 k + i] ^ table[16 (k - 1) + i] within each half of the table."""
    parts = table.reshape(2, HALF // NIBBLE, NIBBLE)
    before = np.concatenate([np.zeros_like(parts[:, :1]), parts[:, :-1]], axis=1)
    differences: np.ndarray = (parts ^ before).reshape(-1)
    return differences


def table_symbol(machine: Machine) -> str:
    """The C name of the kernel."""
    return f"hq_table_{machine.size}"


def shuffled_table_kernel(machine: Machine) -> PrimFunc:
    """`void f(Y, A, table, parameters)`; `table` from `shuffled_table`.

    A byte shuffle looks up four bits and gives 0 where the index is negative. The index falls by 16 from one part of
    the table to the next and stays at -128, so that a byte meets the parts 0 .. x >> 4 only: the xor of their
    differences is its entry. The other half of the table is the same with the top bit turned over.
    """
    size = machine.size

    def body(y: Buffer, a: Buffer, table: Buffer, p: Buffer) -> None:
        def look_up(i: Expr, j: Expr) -> None:
            x = load(a, j, size)
            total = splat(T.uint8(0), size)
            for half in range(2):
                turned = T.bitwise_xor(x, splat(T.uint8(HALF), size)) if half else x
                index = T.reinterpret(lanes_of("int8", size), turned)
                for part in range(HALF // NIBBLE):
                    entries = load(table, half * HALF + part * NIBBLE, NIBBLE)
                    repeated = T.Shuffle([entries] * (size // NIBBLE), list(range(size)))
                    found = T.call_llvm_pure_intrin(
                        lanes_of("uint8", size), f"llvm.x86.{_SHUFFLE[machine.lanes]}", repeated, index
                    )
                    total = T.bitwise_xor(total, found)
                    step = splat(T.int8(NIBBLE), size)
                    index = T.call_llvm_pure_intrin(lanes_of("int8", size), "llvm.ssub.sat", index, step)
            store(y, total, i, size)

        each_piece(p, 2, size, look_up)

    return prim_func(table_symbol(machine), TABLE_POINTERS, body)


def add_symbol(machine: Machine) -> str:
    """The C name of the kernel."""
    return f"hq_add_{machine.size}"


def add_kernel(machine: Machine) -> PrimFunc:
    """`void f(Y, A, B, parameters)`; scalars of `haqnas::qadd`."""

    def body(y: Buffer, a: Buffer, b: Buffer, p: Buffer) -> None:
        scalars = AddScalars.read(p, scalars_at(3))

        def add(i: Expr, j: Expr, k: Expr) -> None:
            total = machine.added(load(a, j, machine.size), load(b, k, machine.size), scalars, EVERY_SUM)
            store(y, total, i, machine.size)

        each_piece(p, 3, machine.size, add)

    pointers = {"y": "uint8", "a": "uint8", "b": "uint8", "parameters": "int32"}
    return prim_func(add_symbol(machine), pointers, body)


def mul_symbol(machine: Machine, narrowing: Narrowing) -> str:
    """The C name of the kernel."""
    return f"hq_mul_{machine.size}{narrowing.suffix}"


def mul_kernel(machine: Machine, narrowing: Narrowing) -> PrimFunc:
    """`void f(Y, A, B, scale, parameters)`; scalars: za, zb, zero point, low, high; loops of `each_column`.

    (a - za) * f with f = b - zb is the sum of two products, a * f + za * -f, of neighbouring 16-bit words: one
    instruction. Interleaving makes the words, the packs at the end undo its order.
    """
    size, lanes = machine.size, machine.lanes
    words = lanes_of("int16", 2 * lanes)

    def spread(first: Expr, second: Expr) -> list[Expr]:
        """Two byte vectors -> four vectors of pairs of 16-bit words."""
        zero = splat(T.uint8(0), size)
        both = [unpacked(first, second, size, high) for high in (False, True)]
        return [T.reinterpret(words, unpacked(b, zero, size, high)) for b in both for high in (False, True)]

    def body(y: Buffer, a: Buffer, b: Buffer, scale: Buffer, p: Buffer) -> None:
        at = scalars_at(3)
        za, zb = (splat(T.cast(p[at + k], "uint8"), size) for k in (0, 1))
        clamp = Clamp.read(narrowing, p, at + 2)
        factor = T.bind(splat(scale[0], lanes))

        def prepare(k: Expr) -> list[Expr]:
            value = T.bind(load(b, k, size))
            pairs = zip(spread(value, zb), spread(zb, value), strict=True)
            return [T.bind(left - right) for left, right in pairs]

        def multiply(i: Expr, j: Expr, factors: list[Expr]) -> None:
            pairs = spread(load(a, j, size), za)
            totals = [machine.product_sum(pair, f) for pair, f in zip(pairs, factors, strict=True)]
            store(y, requantized(machine, totals, [factor] * 4, clamp), i, size)

        each_column(p, size, prepare, multiply)

    pointers = {"y": "uint8", "a": "uint8", "b": "uint8", "scale": "float32", "parameters": "int32"}
    return prim_func(mul_symbol(machine, narrowing), pointers, body)
