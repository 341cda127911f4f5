"""Packed weights below 8 bits, and the code that unpacks them to int8.

Values are packed a vector at a time, so that unpacking takes whole vectors of bytes: a few shifts and masks for
`lanes` values. A width of 3, 5, 6 or 7 bits is split into planes of 4, 2 and 1 bits, the widest first. In a plane, one
vector of bytes holds a field of 8 / width vectors of values, the first in the lowest bits.

The order of values is that of the int8 kernel which reads them next, so every int8 family serves every bit width.
One bit means -1 or +1; more bits are two's complement.
"""

from collections.abc import Iterator

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.tir import Buffer, Expr, PrimFunc, lanes_of, load, prim_func, splat, store

LANES = 32  # of the pass that unpacks a layer before another kernel runs


def planes(bits: int) -> tuple[int, ...]:
    """Widths of the planes: 7 is 4 + 2 + 1."""
    return tuple(width for width in (4, 2, 1) if bits & width)


def group_vectors(bits: int) -> int:
    """Vectors of values that are packed together: those of one vector of the narrowest plane."""
    return 8 // planes(bits)[-1]


def group_size(bits: int, lanes: int) -> int:
    """Values that are packed together."""
    return group_vectors(bits) * lanes


def _fields(bits: int) -> Iterator[tuple[int, int, int]]:
    """Of each plane: its width, its first vector in a group, and the lowest bit of the value that it holds."""
    first, low = 0, bits
    for width in planes(bits):
        low -= width
        yield width, first, low
        first += group_vectors(bits) * width // 8


def pack(values: np.ndarray, bits: int, lanes: int = LANES) -> np.ndarray:
    """Flat int8 -> flat uint8."""
    codes = (values > 0) if bits == 1 else values.astype(np.int64) & ((1 << bits) - 1)
    vectors = group_vectors(bits)
    size = vectors * lanes
    padded = np.zeros(-(-len(values) // size) * size, np.uint8)
    padded[: len(values)] = codes
    grouped = padded.reshape(len(padded) // size, vectors, lanes)
    packed = []
    for width, _, low in _fields(bits):
        each = 8 // width
        field = ((grouped >> low) & ((1 << width) - 1)).reshape(len(grouped), vectors // each, each, lanes)
        shifts = (np.arange(each, dtype=np.uint8) * width)[:, None]
        packed.append(
            np.bitwise_or.reduce(field << shifts, axis=2).reshape(len(grouped), vectors // each * lanes)
        )
    return np.concatenate(packed, axis=1).reshape(-1)


def unpack(packed: np.ndarray, bits: int, count: int, lanes: int = LANES) -> np.ndarray:
    """Inverse of `pack`."""
    vectors = group_vectors(bits)
    groups = packed.reshape(packed.size // (vectors * bits // 8 * lanes), vectors * bits // 8, lanes)
    codes = np.zeros((len(groups), vectors, lanes), np.uint8)
    for width, first, low in _fields(bits):
        for j in range(vectors):
            source, place = divmod(j * width, 8)
            field = (groups[:, first + source] >> place) & ((1 << width) - 1)
            codes[:, j] |= (field << low).astype(np.uint8)
    flat = codes.reshape(-1)[:count].astype(np.int16)
    if bits == 1:
        return (2 * flat - 1).astype(np.int8)
    sign = 1 << (bits - 1)
    return ((flat ^ sign) - sign).astype(np.int8)


def codes(packed: Buffer, first: Expr, bits: int, lanes: int, raised: int = 0) -> list[Expr]:
    """The values of the group that starts at byte `first`: uint8 vectors, `raised` bits up, not yet signed."""
    vectors = group_vectors(bits)
    parts: list[list[Expr]] = [[] for _ in range(vectors)]
    for width, start, low in _fields(bits):
        for source in range(vectors * width // 8):
            vector = load(packed, first + (start + source) * lanes, lanes)
            for k in range(8 // width):
                field = _moved(vector, width * k, width, low + raised, lanes)
                parts[source * 8 // width + k].append(field)
    return [_joined(part) for part in parts]


def _moved(vector: Expr, place: int, width: int, low: int, lanes: int) -> Expr:
    """The field of `width` bits at bit `place`, moved to bit `low`."""

    def amount(count: int) -> Expr:
        return splat(T.uint8(count), lanes)

    if place > low:
        vector = T.shift_right(vector, amount(place - low))
    elif place < low:
        vector = T.shift_left(vector, amount(low - place))
    return T.bitwise_and(vector, amount(((1 << width) - 1) << low))


def _joined(parts: list[Expr]) -> Expr:
    whole, *rest = parts
    for part in rest:
        whole = T.bitwise_or(whole, part)
    return whole


def signed(code: Expr, bits: int, lanes: int) -> Expr:
    """Values as `codes` makes them -> int8."""
    sign = splat(T.uint8(1 if bits == 1 else 1 << (bits - 1)), lanes)
    value = code + code - sign if bits == 1 else T.bitwise_xor(code, sign) - sign
    return T.reinterpret(lanes_of("int8", lanes), value)


def upper_values(packed: Buffer, first: Expr, bits: int, lanes: int, vectors: int) -> list[Expr]:
    """`vectors` int8 vectors from byte `first` on: whole groups, in the upper bits of their bytes.

    There the sign of a value is that of its byte; one bit and eight stay what they are.
    """
    if bits == 8:
        return [load(packed, first + v * lanes, lanes) for v in range(vectors)]
    values = []
    for group in range(vectors // group_vectors(bits)):
        start = first + group * group_vectors(bits) * lanes * bits // 8
        if bits == 1:
            values += [signed(code, 1, lanes) for code in codes(packed, start, 1, lanes)]
        else:
            raised = codes(packed, start, bits, lanes, 8 - bits)
            values += [T.reinterpret(lanes_of("int8", lanes), code) for code in raised]
    return values


def emit_unpack(target: Buffer, packed: Buffer, first: Expr, groups: Expr, bits: int, lanes: int) -> None:
    """Unpack `groups` groups, the first at byte `first`, to the start of `target` (int8)."""
    vectors = group_vectors(bits)
    with T.serial(0, groups) as group:
        values = codes(packed, first + group * (vectors * lanes * bits // 8), bits, lanes)
        for j, value in enumerate(values):
            store(target, signed(value, bits, lanes), (group * vectors + j) * lanes, lanes)


def symbol(bits: int) -> str:
    """The C name of the kernel."""
    return f"hq_unpack_w{bits}"


def kernel(bits: int) -> PrimFunc:
    """`void f(Y int8, A uint8, parameters)`; parameter 0: groups."""

    def body(y: Buffer, a: Buffer, p: Buffer) -> None:
        emit_unpack(y, a, T.int32(0), p[0], bits, LANES)

    return prim_func(symbol(bits), {"y": "int8", "a": "uint8", "parameters": "int32"}, body)
