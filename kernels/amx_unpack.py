"""Unpacking of weights beside tile products: what the kernel of `amx.py` does with fewer than 8 bits.

The step that uses weights first unpacks them, a few chunks ahead of the tile products, into scratch, from which the
other steps read them: one block of channels, or the whole layer where the inner loop is over blocks, or a ring of a few
chunks where there is one step.
"""

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from haqnas.kernels import subbyte
from haqnas.kernels.tir import Buffer, Expr, pointer

# Chunks from unpacking to loading: the stores must be done, or the load waits for the tile products before them as well
# (7x7x512x512: 131 us one chunk ahead, 108 us two).
AHEAD = 2
LANES = 64  # with 32, 121 us instead of 105
RING_CHUNKS = 4  # eight took 99.8 us, four take 93.6: less of the first-level cache
EVERY_CHUNK = 1 << 30


def pack(ordered: np.ndarray, bits: int) -> np.ndarray:
    """int8 weights in the order of tiles -> packed."""
    return subbyte.pack(ordered, bits, LANES)


@dataclass(frozen=True, slots=True)
class Unpacking:
    """Emits the code of one step; scalars are expressions."""

    bits: int
    chunk_bytes: int  # of int8
    packed: Buffer
    unpacked: Buffer
    chunks: Expr  # of a block
    first: Expr  # packed byte where the block starts
    kept: Expr  # byte in `unpacked` where the block starts
    ring: Expr  # chunks of a block that are kept, less one: a power of two
    is_due: Expr  # whether this step unpacks

    def place(self, chunk: Expr) -> Expr:
        """Byte in `unpacked` where a chunk starts."""
        return self.kept + T.bitwise_and(chunk, self.ring) * self.chunk_bytes

    def begin(self) -> None:
        """Unpack the first chunks."""
        with T.If(self.is_due), T.Then():
            with T.serial(0, T.min(AHEAD, self.chunks)) as chunk:
                self._emit(chunk)

    def advance(self, chunk: Expr) -> None:
        """Unpack the chunk that is multiplied AHEAD chunks after this one."""
        with T.If(tirx.all(self.is_due, chunk + AHEAD < self.chunks)), T.Then():
            self._emit(chunk + AHEAD)

    def _emit(self, chunk: Expr) -> None:
        groups = T.int32(self.chunk_bytes // subbyte.group_size(self.bits, LANES))
        start = self.first + chunk * (self.chunk_bytes * self.bits // 8)
        target = pointer(self.unpacked, self.place(chunk))
        subbyte.emit_unpack(target, self.packed, start, groups, self.bits, LANES)
