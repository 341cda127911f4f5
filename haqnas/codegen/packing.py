"""Packing: how the weights of a layer lie in a binary, so that they can be read from it again.

What `read` gives is compared with `values`: the width of the weights in a binary is the one at which they decode to the
integers of the reference graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from haqnas.kernels import subbyte
from haqnas.kernels.row import Geometry, Kernel
from haqnas.quantspec import WEIGHT_BITS

LINE_BYTES = 64  # weights of a part of a layer start at a line of the cache


@dataclass(frozen=True, slots=True)
class Packing:
    """The weights of one layer and what they are packed for."""

    kernel: Kernel
    shares: tuple[
        tuple[int, Geometry], ...
    ]  # of parts with weights of their own: the first channel, and the part
    weight: np.ndarray  # (channels, taps, length) int8, as the integer graph has it

    def pack(self, bits: int) -> np.ndarray:
        """What the kernel reads: packed where it unpacks itself, else int8; flat, shares one after the other."""
        *before, last = self._packed(bits)
        return np.concatenate([*map(_lined, before), last])

    def starts(self, bits: int) -> dict[int, int]:
        """Where the weights of each share start in `pack`, in bytes; by first channel."""
        lengths = [len(_lined(share)) for share in self._packed(bits)]
        return dict(zip((first for first, _ in self.shares), accumulate(lengths, initial=0), strict=False))

    def find_bits(self, data: bytes, expected: int) -> int | None:
        """The width at which `data` holds exactly these weights, `expected` tried first; None: at no width."""
        widths = sorted(WEIGHT_BITS, key=lambda bits: bits != expected)
        return next((bits for bits in widths if self._holds(data, bits)), None)

    def _packed(self, bits: int) -> list[np.ndarray]:
        def at_bits(g: Geometry) -> Geometry:
            return replace(g, weight_bits=bits) if self.kernel.reads_packed else g

        return [
            self.kernel.pack(at_bits(g), self.weight[first : first + g.channels]) for first, g in self.shares
        ]

    def _holds(self, data: bytes, bits: int) -> bool:
        """Whether `data` decodes to the weights at so many bits: all of it, value by value."""
        place = 0
        for values, lanes in self._stretches(bits):
            size = _packed_bytes(len(values), bits, lanes)
            found = _unpack(np.frombuffer(data, np.uint8)[place : place + size], bits, len(values), lanes)
            if not np.array_equal(found, values):
                return False
            place += size + -size % LINE_BYTES
        return place - LINE_BYTES < len(data) <= place

    def _stretches(self, bits: int) -> Iterator[tuple[np.ndarray, int]]:
        """Values in the kernel's order with what fills them up, and the lanes that they are packed by."""
        lanes = self.kernel.packed_lanes
        if lanes is None or bits == 8:
            yield _as_bits(self.pack(8), bits), subbyte.LANES
            return
        for share in self._packed(8):
            yield _as_bits(share, bits), lanes


def _lined(share: np.ndarray) -> np.ndarray:
    """Filled up to whole lines."""
    return np.concatenate([share, np.zeros(-len(share) % LINE_BYTES, share.dtype)])


def _as_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """One bit is -1 or +1: what fills up is -1."""
    return np.where(values > 0, 1, -1).astype(np.int8) if bits == 1 else values


def _packed_bytes(count: int, bits: int, lanes: int) -> int:
    if bits == 8:
        return count
    group = subbyte.group_size(bits, lanes)
    return -(-count // group) * group * bits // 8


def _unpack(data: np.ndarray, bits: int, count: int, lanes: int) -> np.ndarray:
    """int8 values; empty where `data` is not whole."""
    if len(data) != _packed_bytes(count, bits, lanes):
        return np.zeros(0, np.int8)
    return data.view(np.int8)[:count] if bits == 8 else subbyte.unpack(data, bits, count, lanes)
