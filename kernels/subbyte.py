"""Packed weights below 8 bits: eight values in `bits` bytes, and the kernel that unpacks them to int8.

The order of values is that of the int8 kernel which reads them next, so every int8 family serves every bit width.
One bit means -1 or +1; more bits are two's complement.
"""

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.tir import Buffer, Expr, PrimFunc, prim_func, store

GROUP = 8


def packed_size_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values take."""
    return -(-count // GROUP) * bits


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Flat int8 -> flat uint8; value j of a group of eight occupies bits [j * bits, (j + 1) * bits)."""
    codes = (values > 0) if bits == 1 else values.astype(np.int64) & ((1 << bits) - 1)
    padded = np.zeros(-(-len(values) // GROUP) * GROUP, np.uint8)
    padded[: len(values)] = codes
    positions = np.unpackbits(padded[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(positions.reshape(-1), bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Inverse of `pack`."""
    positions = np.unpackbits(packed, bitorder="little").reshape(-1, bits)
    codes = np.packbits(positions, axis=1, bitorder="little")[:count, 0].astype(np.int16)
    if bits == 1:
        return (2 * codes - 1).astype(np.int8)
    sign = 1 << (bits - 1)
    return ((codes ^ sign) - sign).astype(np.int8)


def symbol(bits: int) -> str:
    """The C name of the kernel."""
    return f"hq_unpack_w{bits}"


def kernel(bits: int) -> PrimFunc:
    """`void f(Y int8, A uint8, parameters)`; parameter 0: groups of eight values."""
    mask, sign = (1 << bits) - 1, 1 << (bits - 1)

    def value(a: Buffer, first: Expr, j: int) -> Expr:
        byte, bit = divmod(j * bits, 8)
        word = T.cast(a[first + byte], "int32")
        if bit + bits > 8:
            word = T.bitwise_or(word, T.shift_left(T.cast(a[first + byte + 1], "int32"), 8))
        code = T.bitwise_and(T.shift_right(word, bit), mask)
        return code * 2 - 1 if bits == 1 else T.bitwise_xor(code, sign) - sign

    def body(y: Buffer, a: Buffer, p: Buffer) -> None:
        with T.serial(0, p[0]) as group:
            for j in range(GROUP):
                store(y, T.cast(value(a, group * bits, j), "int8"), group * GROUP + j)

    return prim_func(symbol(bits), {"y": "int8", "a": "uint8", "parameters": "int32"}, body)
