"""Packed weights of a layer in the constants, in the order in which the parts of its kernel call read them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from haqnas.codegen.draft import Argument, Draft, Reference
from haqnas.codegen.packing import Packing
from haqnas.codegen.program import Pointer
from haqnas.codegen.signature import of_numbers
from haqnas.codegen.split import Part, even_ranges
from haqnas.kernels import subbyte
from haqnas.kernels.row import Kernel
from haqnas.kernels.tir import PrimFunc

_UNPACKED_BYTES_PER_NS = 4.0  # roughly, of weights below 8 bits


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights of a layer: what each part of the call gets, and where they lie in the constants."""

    arguments: tuple[Argument, ...]
    offset_bytes: int
    size_bytes: int
    packing: Packing


def store_weights(
    draft: Draft, kernel: Kernel, parts: tuple[Part, ...], weight: np.ndarray, bits: int, layer: str
) -> Stored:
    """Pack `weight` (channels, taps, length) int8; below 8 bits also append the call that unpacks it.

    Parts with channels of their own get weights of their own, one after the other.
    """
    packing = Packing(kernel, tuple({part.channel: part.geometry for part in parts}.items()), weight)
    ordered, starts = packing.pack(bits), packing.starts(bits)
    place: Pointer | Reference
    if bits == 8 or kernel.reads_packed:
        place = start = draft.weight_constant(ordered)
        size_bytes = ordered.nbytes
    else:
        place, start, size_bytes = _unpacked(draft, ordered, bits, layer)
    pointers = tuple(place.moved(starts[part.channel]) for part in parts)
    return Stored(pointers, start.offset_bytes, size_bytes, packing)


def _unpacked(draft: Draft, ordered: np.ndarray, bits: int, layer: str) -> tuple[Reference, Pointer, int]:
    """Where the weights are once unpacked, where they are packed, their bytes."""
    packed = subbyte.pack(ordered, bits)
    pointer = draft.weight_constant(packed)
    size = subbyte.group_size(bits, subbyte.LANES)
    groups = -(-len(ordered) // size)
    target = Reference(draft.allocate(groups * size))
    work_ns = len(ordered) / _UNPACKED_BYTES_PER_NS
    ranges = even_ranges(groups, draft.cutting.count(work_ns))
    kernel: Callable[[], PrimFunc] = lambda: subbyte.kernel(bits)  # noqa: E731
    for part, (first, end) in zip(draft.begin(len(ranges), work_ns), ranges, strict=True):
        arguments = (
            target.moved(first * size),
            pointer.moved(first * size * bits // 8),
            draft.constant(np.array([end - first], np.int32)),
        )
        draft.call(subbyte.symbol(bits), kernel, arguments, layer, of_numbers(groups=end - first), part)
    return target, pointer, packed.nbytes
