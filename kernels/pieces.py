"""A row of the elementwise table: what a kernel can compute, and its loops over contiguous pieces of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from haqnas.kernels.tir import Buffer, Expr, PrimFunc

CHUNK = 16  # bytes of the narrowest vectors
REGISTER_BYTES = {"amx-int8": 64, "avx512-vbmi": 64, "avx512-vnni": 64, "avx2": 32}  # elsewhere CHUNK
RANK = 3  # loops of a kernel of pieces: two over places, one inside a piece


def lanes_of(elements: int, isas: Sequence[str], most: int = 64) -> int:
    """Bytes that a kernel takes at once: of the registers of `isas`, halved until they are `elements`; 1 for very few.

    `most` is where wider vectors gain nothing.
    """
    register = max((REGISTER_BYTES.get(isa, CHUNK) for isa in isas), default=CHUNK)
    lanes = min(register, most)
    while lanes > elements:
        lanes //= 2
    return lanes if lanes >= CHUNK else 1


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops over tensors of one shape: extents, and for each tensor (the written one first) its strides."""

    extents: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def rank(self) -> int:
        return len(self.extents)

    @property
    def piece(self) -> int:
        """Elements of the innermost loop that lie next to each other in every tensor, 0 where they do not."""
        return self.extents[-1] if all(steps[-1] == 1 for steps in self.strides) else 0


@dataclass(frozen=True, slots=True)
class Work:
    """An elementwise operator as its kernel sees it."""

    kind: str  # "table", "add", "mul", "copy" ...
    nest: Nest
    scalars: tuple[int, ...] = ()
    constants: tuple[np.ndarray, ...] = ()
    dtype: str = "uint8"  # of the tensor that is written


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a kernel function with fixed code. Its parameters: extents, strides tensor by tensor, scalars."""

    name: str
    isa: str
    kind: str
    accepts: Callable[[Work], bool]
    arrange: Callable[[Work], Work]  # loops and constants as the kernel wants them
    symbol: Callable[[Work], str]
    function: Callable[[Work], PrimFunc]  # equal symbols, equal functions


def scalars_at(tensors: int, rank: int = RANK) -> int:
    """Position of the first scalar in the parameters of a kernel with so many tensors."""
    return rank * (1 + tensors)


def each_piece(p: Buffer, tensors: int, width: int, body: Callable[..., None]) -> None:
    """Call `body` with the index in each tensor of every `width` elements of every piece.

    The last ones of a piece overlap those before, so a piece needs at least `width` elements, and no tail is written.
    """
    with T.serial(0, p[0]) as i, T.serial(0, p[1]) as j:
        starts = [T.bind(i * p[RANK * k] + j * p[RANK * k + 1]) for k in range(1, 1 + tensors)]
        with T.serial(0, T.truncdiv(p[2] + width - 1, width)) as n:
            first = T.min(n * width, p[2] - width)
            body(*(start + first for start in starts))


def each_column(
    p: Buffer, width: int, prepare: Callable[[Expr], Sequence[Expr]], body: Callable[..., None]
) -> None:
    """For three tensors (Y, A, B), where B is the same along the second loop: that loop runs innermost.

    `prepare` turns an index of B into values that `body` gets with the index in Y and in A. Overlaps as `each_piece`.
    """
    with T.serial(0, p[0]) as i, T.serial(0, T.truncdiv(p[2] + width - 1, width)) as n:
        first = T.bind(T.min(n * width, p[2] - width))
        kept = prepare(i * p[3 * RANK] + first)
        with T.serial(0, p[1]) as j:
            y, a = (i * p[RANK * k] + j * p[RANK * k + 1] + first for k in (1, 2))
            body(y, a, kept)
