"""Memory plan: buffers that are never alive together share memory.

Greedy by size: the largest buffer first, each at the lowest offset that no living neighbour covers
(Pisarchyk and Lee, "Efficient memory management for deep neural net inference", arXiv 2001.03288, algorithm 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer that is alive from call `first` to call `last`, both included."""

    size_bytes: int
    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Offset of each buffer, and the size of the whole."""

    offsets: tuple[int, ...]
    total_bytes: int


def plan_memory(lifetimes: Sequence[Lifetime]) -> MemoryPlan:
    """Place buffers so that no two that are alive at the same call overlap; offsets are multiples of ALIGNMENT."""
    offsets: dict[int, int] = {}
    order = sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size_bytes, lifetimes[i].first, i))
    for index in order:
        wanted = lifetimes[index]
        taken = sorted(
            (offsets[other], offsets[other] + lifetimes[other].size_bytes)
            for other in offsets
            if lifetimes[other].meets(wanted)
        )
        offset = 0
        for start, end in taken:
            if offset + wanted.size_bytes <= start:
                break
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        offsets[index] = offset
    total = max((offsets[i] + lifetimes[i].size_bytes for i in offsets), default=0)
    return MemoryPlan(tuple(offsets[i] for i in range(len(lifetimes))), -(-total // ALIGNMENT) * ALIGNMENT)
