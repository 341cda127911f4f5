"""Elementwise kernels over strided tensors: copies, fills, tables, sums, products, changes of type.

A tensor is a pointer and one stride per dimension, so that a permutation, a slice, a broadcast or the interior of a
halo-padded buffer is read and written where it lies. `parameters` starts with `rank` extents, then `rank` strides for
each tensor in the order of the arguments; scalars follow. Most tensors need three loops once neighbouring dimensions
are merged; the few others get six: short parameters keep programs small.
"""

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from haqnas.kernels.pieces import each_piece, scalars_at
from haqnas.kernels.tir import (
    Buffer,
    Expr,
    PrimFunc,
    clamp_bounds,
    load,
    prim_func,
    requantized,
    splat,
    store,
)

RANKS = (3, 6)


def _nest(p: Buffer, rank: int, tensors: int, inner: Callable[..., None]) -> None:
    """Loop over all extents and call `inner` with the index of each tensor's element."""

    def loop(dimension: int, indices: tuple[Expr, ...]) -> None:
        if dimension == rank:
            inner(*indices)
            return
        with T.serial(0, p[dimension]) as i:
            loop(
                dimension + 1,
                tuple(index + i * p[rank * (1 + k) + dimension] for k, index in enumerate(indices)),
            )

    loop(0, (T.int32(0),) * tensors)


def copy_kernel(dtype: str, rank: int) -> PrimFunc:
    """`void f(Y, A, parameters)`."""

    def body(y: Buffer, a: Buffer, p: Buffer) -> None:
        _nest(p, rank, 2, lambda i, j: store(y, a[j], i))

    return prim_func(f"hq_copy_{dtype}_{rank}", {"y": dtype, "a": dtype, "parameters": "int32"}, body)


def fill_kernel(rank: int) -> PrimFunc:
    """`void f(Y, parameters)`; scalar: the value."""

    def body(y: Buffer, p: Buffer) -> None:
        _nest(p, rank, 1, lambda i: store(y, T.cast(p[scalars_at(1, rank)], "uint8"), i))

    return prim_func(f"hq_fill_{rank}", {"y": "uint8", "parameters": "int32"}, body)


def copy_pieces_kernel(width: int) -> PrimFunc:
    """`void f(Y, A, parameters)`: bytes in pieces of at least `width`."""

    def body(y: Buffer, a: Buffer, p: Buffer) -> None:
        each_piece(p, 2, width, lambda i, j: store(y, load(a, j, width), i, width))

    return prim_func(copy_pieces_symbol(width), {"y": "uint8", "a": "uint8", "parameters": "int32"}, body)


def copy_pieces_symbol(width: int) -> str:
    """The C name of the kernel."""
    return f"hq_copy_pieces_{width}"


def fill_pieces_kernel(width: int) -> PrimFunc:
    """`void f(Y, parameters)`: a value in pieces of at least `width` bytes; scalar: the value."""

    def body(y: Buffer, p: Buffer) -> None:
        value = T.bind(splat(T.cast(p[scalars_at(1)], "uint8"), width))
        each_piece(p, 1, width, lambda i: store(y, value, i, width))

    return prim_func(fill_pieces_symbol(width), {"y": "uint8", "parameters": "int32"}, body)


def fill_pieces_symbol(width: int) -> str:
    """The C name of the kernel."""
    return f"hq_fill_pieces_{width}"


def halo_kernel(width: int) -> PrimFunc:
    """`void f(Y, parameters)`: write the border of a dense (rows, columns, channels) image with a value.

    Parameters: bytes before the first pixel, number of gaps, bytes of a gap (right border and the next row's left),
    bytes from one gap to the next, bytes after the last pixel, value. Stretches of bytes are empty or hold at least
    `width`: they are written in vectors of which the last overlaps the one before.
    """

    def body(y: Buffer, p: Buffer) -> None:
        value = T.bind(splat(T.cast(p[5], "uint8"), width))
        # One loop over all stretches, so that LLVM unrolls one loop and not three.
        with T.serial(0, p[1] + 2) as k:
            start = T.bind(T.Select(k > 0, p[0] - p[2] + k * p[3], 0))
            length = T.bind(T.Select(k > 0, T.Select(k > p[1], p[4], p[2]), p[0]))
            with T.serial(0, T.truncdiv(length + width - 1, width)) as n:
                store(y, value, start + T.min(n * width, length - width), width)

    return prim_func(halo_symbol(width), {"y": "uint8", "parameters": "int32"}, body)


def halo_symbol(width: int) -> str:
    """The C name of the kernel."""
    return f"hq_halo_{width}"


def table_kernel(rank: int) -> PrimFunc:
    """`void f(Y, A, table, parameters)`: table of 256 bytes."""

    def body(y: Buffer, a: Buffer, table: Buffer, p: Buffer) -> None:
        _nest(p, rank, 2, lambda i, j: store(y, table[T.cast(a[j], "int32")], i))

    pointers = {"y": "uint8", "a": "uint8", "table": "uint8", "parameters": "int32"}
    return prim_func(f"hq_table_{rank}", pointers, body)


def add_kernel(rank: int) -> PrimFunc:
    """`void f(Y, A, B, parameters)`; scalars: za, ma, zb, mb, shift, zero point, low, high (see haqnas::qadd)."""

    def body(y: Buffer, a: Buffer, b: Buffer, p: Buffer) -> None:
        za, ma, zb, mb, shift, zero_point, low, high = (p[scalars_at(3, rank) + k] for k in range(8))
        half = T.shift_left(T.int32(1), shift - 1)

        def inner(i: Expr, j: Expr, k: Expr) -> None:
            left = (T.cast(a[j], "int32") - za) * ma
            right = (T.cast(b[k], "int32") - zb) * mb
            total = T.shift_right(left + right + half, shift) + zero_point
            store(y, T.cast(T.min(T.max(total, low), high), "uint8"), i)

        _nest(p, rank, 3, inner)

    pointers = {"y": "uint8", "a": "uint8", "b": "uint8", "parameters": "int32"}
    return prim_func(f"hq_add_{rank}", pointers, body)


def mul_kernel(rank: int) -> PrimFunc:
    """`void f(Y, A, B, scale, parameters)`; scalars: za, zb, zero point, low, high (see haqnas::qmul)."""

    def body(y: Buffer, a: Buffer, b: Buffer, scale: Buffer, p: Buffer) -> None:
        first = scalars_at(3, rank)
        za, zb = p[first], p[first + 1]
        bounds = clamp_bounds(p, first + 2)

        def inner(i: Expr, j: Expr, k: Expr) -> None:
            product = (T.cast(a[j], "int32") - za) * (T.cast(b[k], "int32") - zb)
            store(y, requantized(product, scale[0], bounds, 1), i)

        _nest(p, rank, 3, inner)

    pointers = {"y": "uint8", "a": "uint8", "b": "uint8", "scale": "float32", "parameters": "int32"}
    return prim_func(f"hq_mul_{rank}", pointers, body)


def quantize_kernel(rank: int) -> PrimFunc:
    """`void f(Y, A, inverse scale, parameters)`; scalars: zero point, low, high (see haqnas::quantize)."""

    def body(y: Buffer, a: Buffer, scale: Buffer, p: Buffer) -> None:
        low, high, zero_point = clamp_bounds(p, scalars_at(2, rank))

        def inner(i: Expr, j: Expr) -> None:
            clamped = T.min(T.max(T.nearbyint(a[j] * scale[0]), low), high)
            store(y, T.cast(T.cast(clamped, "int32") + zero_point, "uint8"), i)

        _nest(p, rank, 2, inner)

    pointers = {"y": "uint8", "a": "float32", "scale": "float32", "parameters": "int32"}
    return prim_func(f"hq_quantize_{rank}", pointers, body)


def dequantize_kernel(rank: int) -> PrimFunc:
    """`void f(Y, A, scale, parameters)`; scalar: zero point (see haqnas::dequantize)."""

    def body(y: Buffer, a: Buffer, scale: Buffer, p: Buffer) -> None:
        zero_point = p[scalars_at(2, rank)]

        def inner(i: Expr, j: Expr) -> None:
            store(y, T.cast(T.cast(a[j], "int32") - zero_point, "float32") * scale[0], i)

        _nest(p, rank, 2, inner)

    pointers = {"y": "float32", "a": "uint8", "scale": "float32", "parameters": "int32"}
    return prim_func(f"hq_dequantize_{rank}", pointers, body)
