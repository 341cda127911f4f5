"""Borders that are not filled again are whole, whatever else lies in the workspace, and cost little of it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haqnas.codegen.borders import GROWTH, Border, plan_with_borders, shared_halos
from haqnas.codegen.layout import Halo, channels_last, extent
from haqnas.codegen.plan import Lifetime, plan_memory

ALL = Halo(1, 1, 1, 1)
BORDERS = [
    Border((1, 2, 3, 4), ALL, 0),
    Border((1, 2, 3, 4), ALL, 9),
    Border((1, 2, 3, 4), Halo(1, 1, 0, 0), 9),
    Border((1, 1, 3, 2), Halo(0, 2, 0, 2), 9),
]
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Tensor:
    """A buffer of the plan: an image with a border, or anything else of 50 bytes."""

    first: int
    span: int
    border: Border | None
    is_written_beside: bool

    @property
    def size_bytes(self) -> int:
        return extent(layout_of(self.border)) if self.border else 50

    @property
    def last(self) -> int:
        return self.first + self.span


def layout_of(border: Border):
    return channels_last(border.shape, border.halo)


def border_bytes(border: Border) -> set[int]:
    layout = layout_of(border)
    _, channels, height, width = border.shape
    inside = {
        layout.offset + c + y * layout.strides[2] + x * layout.strides[3]
        for c in range(channels)
        for y in range(height)
        for x in range(width)
    }
    return set(range(extent(layout))) - inside


TENSORS = st.lists(
    st.builds(
        Tensor, st.integers(0, 30), st.integers(0, 6), st.sampled_from([*BORDERS, None]), st.booleans()
    ),
    max_size=25,
)


def planned(tensors):
    lifetimes = {i: Lifetime(t.size_bytes, t.first, t.last) for i, t in enumerate(tensors)}
    borders = {i: t.border for i, t in enumerate(tensors) if t.border}
    beside = {i for i, t in enumerate(tensors) if t.is_written_beside}
    return plan_with_borders(lifetimes, borders, beside)


@given(TENSORS)
def test_borders_are_whole_as_long_as_images_live(tensors):
    """A plain simulation of one run: at each call, what is alive is written, and may be written as a whole."""
    places = planned(tensors)
    memory: dict[int, object] = {}
    for now in range(40):
        for i, t in enumerate(tensors):
            at = places.offsets[i]
            if t.border is None and t.first <= now <= t.last:
                memory |= dict.fromkeys(range(at, at + t.size_bytes), UNKNOWN)
            if t.border is None or t.first != now:
                continue
            edge = {at + byte for byte in border_bytes(t.border)}
            whole = range(at, at + t.size_bytes)
            written = whole if t.is_written_beside else set(whole) - edge
            memory |= dict.fromkeys(written, UNKNOWN)
            if i not in places.kept:
                memory |= dict.fromkeys(edge, t.border.byte)
        for i, t in enumerate(tensors):
            if t.border and t.first <= now <= t.last:
                edge = {places.offsets[i] + byte for byte in border_bytes(t.border)}
                assert {memory.get(byte, UNKNOWN) for byte in edge} <= {t.border.byte}


@given(TENSORS)
def test_living_buffers_lie_apart_in_little_more_memory(tensors):
    places = planned(tensors)
    for i, t in enumerate(tensors):
        assert places.offsets[i] + t.size_bytes <= places.total_bytes
        for k, other in enumerate(tensors[:i]):
            if t.first <= other.last and other.first <= t.last:
                a, b = places.offsets[i], places.offsets[k]
                assert a + t.size_bytes <= b or b + other.size_bytes <= a
    alone = plan_memory([Lifetime(t.size_bytes, t.first, t.last) for t in tensors])
    assert places.total_bytes <= GROWTH * alone.total_bytes


@pytest.mark.parametrize(("beside", "kept"), [((), {2, 3, 4}), ((3,), {2, 4}), ((0, 1), {2, 3, 4})])
def test_a_chain_of_layers_fills_two_borders(beside, kept):
    chain = [Tensor(i, 1, BORDERS[0], i in beside) for i in range(5)]
    assert planned(chain).kept == kept


def test_other_zero_points_and_halos_keep_nothing():
    chain = [Tensor(i, 0, border, is_written_beside=False) for i, border in enumerate(BORDERS)]
    assert not planned(chain).kept


def test_images_alike_have_the_halo_of_most():
    small, wide = Halo(1, 1, 0, 0), Halo(2, 2, 2, 2)
    wanted = {"a": (ALL, "x"), "b": (ALL, "x"), "c": (small, "x"), "d": (small, "y"), "e": (wide, "x")}
    assert shared_halos(wanted) == {"a": ALL, "b": ALL, "c": ALL, "d": small, "e": wide}
