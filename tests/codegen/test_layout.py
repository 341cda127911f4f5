"""Layouts against numpy: every view names the same elements as the operation it stands for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haqnas.codegen.layout import (
    Halo,
    Layout,
    broadcast,
    channels_last,
    dense,
    extent,
    loop_nest,
    natural,
    permuted,
    reshaped,
    sliced,
)

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def read(layout: Layout, memory: np.ndarray) -> np.ndarray:
    """Gather a layout's elements by its own definition."""
    indices = np.full(layout.shape, layout.offset)
    for axis, (size, stride) in enumerate(zip(layout.shape, layout.strides, strict=True)):
        steps = np.arange(size) * stride
        indices = indices + steps.reshape([-1 if i == axis else 1 for i in range(len(layout.shape))])
    return memory[indices]


@given(SHAPES, st.randoms(use_true_random=False))
def test_views_name_the_elements_that_numpy_names(shape, random):
    memory = np.arange(math.prod(shape))
    layout, array = dense(shape), memory.reshape(shape)
    for _ in range(3):
        order = random.sample(range(len(layout.shape)), len(layout.shape))
        layout, array = permuted(layout, order), array.transpose(order)
        axis = random.randrange(len(layout.shape))
        start = random.randrange(layout.shape[axis])
        step = random.choice([1, 1, 2])
        array = array.take(range(start, layout.shape[axis], step), axis)
        layout = sliced(layout, axis, start, layout.shape[axis], step)
    np.testing.assert_array_equal(read(layout, memory), array)


@given(SHAPES, SHAPES, st.randoms(use_true_random=False))
def test_reshape_is_a_view_exactly_where_numpy_needs_no_copy(shape, target, random):
    order = random.sample(range(len(shape)), len(shape))
    memory = np.arange(math.prod(shape))
    layout, array = permuted(dense(shape), order), memory.reshape(shape).transpose(order)
    if math.prod(target) != math.prod(shape):
        target = (math.prod(shape), 1)
    view = reshaped(layout, target)
    expected = array.reshape(target)
    if view is not None:
        np.testing.assert_array_equal(read(view, memory), expected)
    else:
        assert not np.shares_memory(expected, memory), "numpy found a view that we did not"


def test_reshape_between_images_and_sequences_of_height_one_keeps_the_halo():
    image = channels_last((1, 3, 1, 8), Halo(0, 2, 0, 2))
    sequence = reshaped(image, (1, 3, 8))
    assert sequence is not None
    assert sequence.halo == image.halo
    again = reshaped(sequence, (1, 3, 1, 8))
    assert again is not None
    assert again.halo == image.halo
    assert again.strides[1] == 1
    assert again.strides[3] == image.strides[3]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.tuples(*[st.integers(0, 2)] * 4))
def test_channels_last_elements_are_distinct_and_inside_the_buffer(c, h, w, halo):
    layout = channels_last((1, c, h, w), Halo(*halo))
    elements = read(layout, np.arange(extent(layout)))
    assert len(np.unique(elements)) == c * h * w


@given(SHAPES, st.randoms(use_true_random=False))
def test_loop_nest_visits_every_element_once_in_step(shape, random):
    order = random.sample(range(len(shape)), len(shape))
    inverse = list(np.argsort(order))
    other = permuted(dense([shape[i] for i in order]), inverse)
    small = tuple(random.choice([1, size]) for size in shape)
    layouts = [dense(shape), other, broadcast(dense(small), shape)]
    extents, strides = loop_nest(layouts, (3, 6))
    visited = np.zeros((3, *extents), dtype=int)
    for position in np.ndindex(*extents):
        for k in range(3):
            visited[(k, *position)] = layouts[k].offset + np.dot(position, strides[k])
    expected = [read(layout, np.arange(10_000)).reshape(-1) for layout in layouts]
    assert sorted(zip(*visited.reshape(3, -1), strict=True)) == sorted(zip(*expected, strict=True))


def test_loop_nest_refuses_more_loops_than_the_kernel_has():
    scattered = Layout((2,) * 7, (3, 7, 17, 41, 97, 211, 467))
    with pytest.raises(ValueError, match="7 loops needed, 6 supported"):
        loop_nest([scattered], (3, 6))


def test_a_batch_of_images_is_row_major():
    assert natural((2, 3, 4, 5)) == dense((2, 3, 4, 5))
