"""Layout: where the elements of a tensor lie in its buffer. Data movement is a change of layout wherever one exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple


class Halo(NamedTuple):
    """Rows and columns of zero points around an image that a convolution may read."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def covers(self, other: "Halo") -> bool:
        return all(mine >= theirs for mine, theirs in zip(self, other, strict=True))

    def union(self, other: "Halo") -> "Halo":
        return Halo(*(max(mine, theirs) for mine, theirs in zip(self, other, strict=True)))


NO_HALO = Halo()


@dataclass(frozen=True, slots=True)
class Layout:
    """Element [i, j, ...] lies at offset + i * strides[0] + j * strides[1] + ... (in elements)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    halo: Halo = NO_HALO  # around dimensions -2 (where rank 4) and -1

    @property
    def is_dense(self) -> bool:
        """Row-major without gaps; dimensions of one element do not matter."""
        return _significant(self) == _significant(dense(self.shape))


def _significant(layout: Layout) -> tuple[tuple[int, int], ...]:
    return tuple((e, s) for e, s in zip(layout.shape, layout.strides, strict=True) if e != 1)


def dense(shape: Sequence[int]) -> Layout:
    """Row-major."""
    strides = [1] * len(shape)
    for i in reversed(range(len(shape) - 1)):
        strides[i] = strides[i + 1] * shape[i + 1]
    return Layout(tuple(shape), tuple(strides))


def channels_last(shape: Sequence[int], halo: Halo = NO_HALO) -> Layout:
    """(1, c, h, w) with the channels of a pixel next to each other and a border of `halo` pixels."""
    _, channels, height, width = shape
    row = (halo.left + width + halo.right) * channels
    total = (halo.top + height + halo.bottom) * row
    return Layout(tuple(shape), (total, 1, row, channels), halo.top * row + halo.left * channels, halo)


def natural(shape: Sequence[int], halo: Halo = NO_HALO) -> Layout:
    """What a new buffer gets: channels last for images, row-major for all else."""
    return channels_last(shape, halo) if len(shape) == 4 and shape[0] == 1 else dense(shape)


def extent(layout: Layout) -> int:
    """Elements of the buffer of a `natural` layout."""
    return layout.shape[0] * layout.strides[0] if layout.shape else 1


def permuted(layout: Layout, order: Sequence[int]) -> Layout:
    """Dimension i of the result is dimension order[i]."""
    return Layout(
        tuple(layout.shape[i] for i in order), tuple(layout.strides[i] for i in order), layout.offset
    )


def sliced(layout: Layout, dim: int, start: int, stop: int, step: int) -> Layout:
    """Elements start, start + step ... below stop of one dimension. A slice of channels keeps the halo."""
    shape, strides = list(layout.shape), list(layout.strides)
    shape[dim] = max(0, -(-(stop - start) // step))
    strides[dim] *= step
    keeps_halo = len(shape) in (3, 4) and dim == 1 and step == 1
    halo = layout.halo if keeps_halo or shape[dim] == layout.shape[dim] else NO_HALO
    return Layout(tuple(shape), tuple(strides), layout.offset + start * layout.strides[dim], halo)


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The same elements in another shape without moving any, or None where that is impossible."""
    shape = tuple(shape)
    chunks: list[tuple[int, int]] = []  # (elements, stride of the last one), neighbours merged
    for size, stride in _significant(layout):
        if chunks and chunks[-1][1] == size * stride:
            chunks[-1] = (chunks[-1][0] * size, stride)
        else:
            chunks.append((size, stride))
    strides = [0] * len(shape)
    remaining, step = 1, 1
    for i in reversed(range(len(shape))):
        if shape[i] == 1:
            strides[i] = step * remaining if not strides[i] else strides[i]
            continue
        if remaining == 1:
            if not chunks:
                return None
            remaining, step = chunks.pop()
        if remaining % shape[i]:
            return None
        strides[i] = step
        step *= shape[i]
        remaining //= shape[i]
    halo = layout.halo if _adds_unit_height(layout.shape, shape) else NO_HALO
    return Layout(shape, tuple(strides), layout.offset, halo)


def _adds_unit_height(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether (n, c, l) became (n, c, 1, l) or the reverse, as around a one-dimensional convolution."""
    longer, shorter = sorted((old, new), key=len, reverse=True)
    return old == new or (
        len(longer) == 4 and len(shorter) == 3 and longer[2] == 1 and longer[:2] + longer[3:] == shorter
    )


def broadcast(layout: Layout, shape: Sequence[int]) -> Layout:
    """Repeat dimensions of one element by a stride of zero."""
    missing = len(shape) - len(layout.shape)
    old = (1,) * missing + layout.shape
    strides = (0,) * missing + layout.strides
    return Layout(
        tuple(shape),
        tuple(0 if o == 1 and n != 1 else s for o, n, s in zip(old, shape, strides, strict=True)),
        layout.offset,
    )


def loop_nest(layouts: Sequence[Layout], ranks: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Extents and strides (one list per tensor) of loops over tensors of one shape; the first is written.

    Dimensions are ordered by the written tensor's strides and merged where all tensors allow it; the number of loops
    is the least of `ranks` that suffices. Raises ValueError where none does.
    """
    shape = layouts[0].shape
    order = sorted((i for i, e in enumerate(shape) if e != 1), key=lambda i: -layouts[0].strides[i])
    extents: list[int] = []
    strides: list[list[int]] = [[] for _ in layouts]
    for i in order:
        steps = [layout.strides[i] for layout in layouts]
        if extents and all(s[-1] == step * shape[i] for s, step in zip(strides, steps, strict=True)):
            extents[-1] *= shape[i]
            for s, step in zip(strides, steps, strict=True):
                s[-1] = step
        else:
            extents.append(shape[i])
            for s, step in zip(strides, steps, strict=True):
                s.append(step)
    rank = next((rank for rank in sorted(ranks) if rank >= len(extents)), None)
    if rank is None:
        raise ValueError(f"{len(extents)} loops needed, {max(ranks)} supported, for shape {shape}")
    filler = rank - len(extents)
    total = prod(shape)
    return (
        [1] * filler + extents if total else [0] * rank,
        [[0] * filler + s for s in strides],
    )
