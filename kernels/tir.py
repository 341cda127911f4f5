"""A thin layer over TVM's IR builder: kernels are C functions of raw pointers, without any TVM runtime.

TVM's packed calling convention costs a check of every tensor at every call and needs its runtime library. A PrimFunc
whose parameters are typed handles, compiled without MakePackedAPI, is an ordinary C function instead.
"""

from collections.abc import Callable, Mapping
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
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
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
    """The name of a vector type: lanes_of("int32", 16) is "int32x16"."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def at(index: Expr, lanes: int) -> Expr:
    """`lanes` consecutive elements from `index` on."""
    return index if lanes == 1 else T.ramp(index, 1, lanes)


def load(buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
    return buffer[at(index, lanes)]


def store(buffer: Buffer, value: Expr, index: Expr, lanes: int = 1) -> None:
    T.buffer_store(buffer, value, [at(index, lanes)])


def splat(value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else T.broadcast(value, lanes)


def convert(value: Expr, dtype: str, lanes: int) -> Expr:
    return T.cast(value, lanes_of(dtype, lanes))


def local(dtype: str, count: int) -> Buffer:
    """Registers or stack of the kernel; indices must be constants to become registers."""
    return T.alloc_buffer((count,), dtype, scope="local")


def requantized(total: Expr, scale: Expr, bounds: tuple[Expr, Expr, Expr], lanes: int) -> Expr:
    """int32 accumulator -> uint8, by the one rule of `haqnas.graph.ops.requantize`.

    `bounds` = (low - zero point, high - zero point, zero point) as (float32, float32, int32) scalars.
    """
    low, high, zero_point = bounds
    rounded = T.nearbyint(convert(total, "float32", lanes) * scale)
    clamped = T.min(T.max(rounded, splat(low, lanes)), splat(high, lanes))
    return convert(convert(clamped, "int32", lanes) + splat(zero_point, lanes), "uint8", lanes)


def clamp_bounds(parameters: Buffer, first: int) -> tuple[Expr, Expr, Expr]:
    """Read (zero point, low, high) at `first` and prepare them for `requantized`."""
    zero_point = parameters[first]
    return (
        T.cast(parameters[first + 1] - zero_point, "float32"),
        T.cast(parameters[first + 2] - zero_point, "float32"),
        zero_point,
    )
