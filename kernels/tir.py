"""A thin layer over TVM's IR builder: kernels are C functions of raw pointers, without any TVM runtime.

TVM's packed calling convention costs a check of every tensor at every call and needs its runtime library. A PrimFunc
whose parameters are typed handles, compiled without MakePackedAPI, is an ordinary C function instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

UNBOUNDED = 1 << 30  # kernels take pointers: the extent of a buffer is not theirs to know

Expr = Any  # TIR expressions, buffers and functions are untyped: TVM ships no annotations
Buffer = Any
PrimFunc = Any


def prim_func(symbol: str, pointers: Mapping[str, str], body: Callable[..., None]) -> PrimFunc:
    """Build `void symbol(dtype *pointer, ...)`; `body` gets one flat buffer per pointer.

    The pointers of one call must not overlap, except where both are only read.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(symbol)
        T.func_attr({"global_symbol": symbol, "tirx.noalias": True})
        handles = [T.arg(name, T.handle(dtype)) for name, dtype in pointers.items()]
        body(
            *(
                T.decl_buffer((UNBOUNDED,), dtype, data=handle)
                for handle, dtype in zip(handles, pointers.values(), strict=True)
            )
        )
    return builder.get()


def lanes_of(dtype: str, lanes: int) -> str:
    """The name of a vector type, such as int32x16."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def at(index: Expr, lanes: int) -> Expr:
    """`lanes` consecutive elements from `index` on."""
    return index if lanes == 1 else T.ramp(index, 1, lanes)


def load(buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
    """`lanes` elements from `index` on."""
    return buffer[at(index, lanes)]


def store(buffer: Buffer, value: Expr, index: Expr, lanes: int = 1) -> None:
    """Write `lanes` elements from `index` on."""
    T.buffer_store(buffer, value, [at(index, lanes)])


def splat(value: Expr, lanes: int) -> Expr:
    """The same number in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def convert(value: Expr, dtype: str, lanes: int) -> Expr:
    """The numbers in another type."""
    return T.cast(value, lanes_of(dtype, lanes))


def pointer(buffer: Buffer, index: Expr) -> Buffer:
    """A buffer that starts at element `index` of another: the address is computed once, here."""
    address = T.bind(T.address_of(buffer[index]))
    return T.decl_buffer((UNBOUNDED,), buffer.dtype, data=address)


def prefetch(buffer: Buffer, index: Expr) -> None:
    """Bring the cache line of an element, which may lie past the buffer's end, into the second-level cache."""
    address = T.address_of(buffer[index])
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, T.int32(0), T.int32(2), T.int32(1)))


def local(dtype: str, count: int) -> Buffer:
    """Registers or stack of the kernel; indices must be constants to become registers."""
    return T.alloc_buffer((count,), dtype, scope="local")


def requantized(total: Expr, scale: Expr, bounds: tuple[Expr, Expr, Expr], lanes: int) -> Expr:
    """int32 accumulator -> uint8, by the one rule of `haqnas.graph.ops.requantize`.

    `bounds` = (low - zero point, high - zero point, zero point) as (float32, float32, int32) scalars.
    """
    low, high, zero_point = bounds
    scaled = convert(total, "float32", lanes) * scale
    # The bounds are whole numbers, so clamping before rounding gives the same; then rounding and conversion are one
    # instruction on x86 and RISC-V (lrint rounds half to even: the mode that every C program starts in).
    clamped = T.min(T.max(scaled, splat(low, lanes)), splat(high, lanes))
    rounded = T.call_llvm_pure_intrin(lanes_of("int32", lanes), "llvm.lrint", clamped)
    return convert(rounded + splat(zero_point, lanes), "uint8", lanes)


@dataclass(frozen=True, slots=True)
class AddScalars:
    """The scalars of `haqnas::qadd`, int32 expressions."""

    a_zero_point: Expr
    a_multiplier: Expr
    b_zero_point: Expr
    b_multiplier: Expr
    shift: Expr
    zero_point: Expr
    low: Expr
    high: Expr

    @classmethod
    def read(cls, parameters: Buffer, first: int) -> "AddScalars":
        fields = [parameters[first + k] for k in range(8)]
        # Their true widths, said aloud: so LLVM uses one 16-bit multiply (vpmaddwd, smull), not a slow 32-bit one.
        for position, dtype in ((0, "uint8"), (1, "int16"), (2, "uint8"), (3, "int16")):
            fields[position] = T.cast(T.cast(fields[position], dtype), "int32")
        return cls(*fields)


def added(a: Expr, b: Expr, scalars: AddScalars, lanes: int) -> Expr:
    """Two uint8 vectors -> their sum as uint8, by the rule of `haqnas::qadd`."""

    def wide(value: Expr, zero_point: Expr, multiplier: Expr) -> Expr:
        return (convert(value, "int32", lanes) - splat(zero_point, lanes)) * splat(multiplier, lanes)

    half = T.shift_left(T.int32(1), scalars.shift - 1)
    total = wide(a, scalars.a_zero_point, scalars.a_multiplier) + wide(
        b, scalars.b_zero_point, scalars.b_multiplier
    )
    rounded = T.shift_right(total + splat(half, lanes), splat(scalars.shift, lanes)) + splat(
        scalars.zero_point, lanes
    )
    clamped = T.min(T.max(rounded, splat(scalars.low, lanes)), splat(scalars.high, lanes))
    return convert(clamped, "uint8", lanes)


def clamp_bounds(parameters: Buffer, first: int) -> tuple[Expr, Expr, Expr]:
    """Read (zero point, low, high) at `first` and prepare them for `requantized`."""
    zero_point = parameters[first]
    return (
        T.cast(parameters[first + 1] - zero_point, "float32"),
        T.cast(parameters[first + 2] - zero_point, "float32"),
        zero_point,
    )
