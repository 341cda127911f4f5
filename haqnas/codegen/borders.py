"""Borders are kept: images of equal shape, halo and zero point take turns in one place, and the first fills the border.

Such images hold equal bytes in equal places around their rows. While they take turns nothing else is placed there, even
between two turns, and their kernels write inside the images only. So the border that was filled first stays whole.
An image whose kernel writes beside its rows fills its border itself, for the next ones too.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from haqnas.codegen.layout import Halo
from haqnas.codegen.plan import Lifetime, plan_memory

Image = TypeVar("Image")
GROWTH = 1.05  # of the workspace: a place is taken between turns too


@dataclass(frozen=True, slots=True)
class Border:
    """What surrounds an image that owns its buffer: equal borders are equal bytes in equal places."""

    shape: tuple[int, ...]
    halo: Halo
    byte: int

    @property
    def size_bytes(self) -> int:
        """Of the border alone."""
        _, channels, height, width = self.shape
        rows, columns = height + self.halo.top + self.halo.bottom, width + self.halo.left + self.halo.right
        return rows * columns * channels - prod(self.shape)


@dataclass(frozen=True, slots=True)
class Places:
    """Where each buffer lies in the workspace, and the images that find their border filled."""

    offsets: Mapping[int, int]
    total_bytes: int
    kept: frozenset[int]


Turns = tuple[int, ...]  # images that have one place, one after the other


def plan_with_borders(
    lifetimes: Mapping[int, Lifetime], borders: Mapping[int, Border], written_beside: Set[int]
) -> Places:
    """Places of buffers by number, of which those in `borders` are images.

    `written_beside`: images whose kernels write into the border, which is filled after them.
    """
    apart = [(buffer,) for buffer in lifetimes if buffer not in borders]
    images: dict[Border, list[int]] = {}
    for buffer in sorted(lifetimes.keys() & borders.keys(), key=lambda b: (lifetimes[b].first, b)):
        images.setdefault(borders[buffer], []).append(buffer)
    shared = {border: _turns(members, lifetimes) for border, members in images.items()}
    alone: dict[Border, list[Turns]] = {
        border: [(member,) for member in members] for border, members in images.items()
    }

    def planned(chosen: Mapping[Border, list[Turns]]) -> Places:
        return _placed([*apart, *(turns for each in chosen.values() for turns in each)], lifetimes)

    def spared_bytes(border: Border) -> int:
        return (len(alone[border]) - len(shared[border])) * border.size_bytes

    chosen, best = alone, planned(alone)
    limit_bytes = GROWTH * best.total_bytes
    for border in sorted((b for b in shared if spared_bytes(b)), key=spared_bytes, reverse=True):
        attempt = chosen | {border: shared[border]}
        places = planned(attempt)
        if places.total_bytes <= limit_bytes:
            chosen, best = attempt, places
    later = {buffer for each in chosen.values() for turns in each for buffer in turns[1:]}
    return Places(best.offsets, best.total_bytes, frozenset(later - written_beside))


def shared_halos(wanted: Mapping[Image, tuple[Halo, Hashable]]) -> dict[Image, Halo]:
    """The halo of each image: that which it wants, or a wider one that most others of its kind want.

    `wanted`: halo and kind (shape, zero point ...) of each.
    """
    counts = Counter(wanted.values())

    def widened(halo: Halo, kind: Hashable) -> Halo:
        covering = [other for other, like in counts if like == kind and other.covers(halo)]
        return max(covering, key=lambda other: (counts[other, kind], other == halo))

    return {image: widened(*each) for image, each in wanted.items()}


def _turns(members: Sequence[int], lifetimes: Mapping[int, Lifetime]) -> list[Turns]:
    """Each image goes where one was needed last before it; to a place of its own where none is free."""
    places: list[list[int]] = []
    for buffer in members:
        free = [place for place in places if lifetimes[place[-1]].last < lifetimes[buffer].first]
        if free:
            max(free, key=lambda place: lifetimes[place[-1]].last).append(buffer)
        else:
            places.append([buffer])
    return [tuple(place) for place in places]


def _placed(every: Sequence[Turns], lifetimes: Mapping[int, Lifetime]) -> Places:
    """One place for each, from its first turn to its last."""
    spans = [
        Lifetime(lifetimes[turns[0]].size_bytes, lifetimes[turns[0]].first, lifetimes[turns[-1]].last)
        for turns in every
    ]
    plan = plan_memory(spans)
    offsets = {buffer: offset for turns, offset in zip(every, plan.offsets, strict=True) for buffer in turns}
    return Places(offsets, plan.total_bytes, frozenset())
