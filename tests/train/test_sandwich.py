"""Which networks a step trains: strict fairness, the sandwich, and knobs that open one after the other."""

from collections import Counter

import pytest

from haqnas.errors import ConfigurationError
from haqnas.space.architecture import ArchitectureKnob, ArchitectureSpace, KnobKind
from haqnas.train.sandwich import draw, openings, sandwich, space_at


def knob(name: str, *choices: int) -> ArchitectureKnob:
    return ArchitectureKnob(name, KnobKind(name.partition(":")[0]), ("layer",), choices)


SPACE = ArchitectureSpace(
    (
        knob("resolution:x", 32, 24, 16),
        knob("depth:a", 4, 3, 2, 1, 0),
        knob("width:a", 16, 8),
        knob("width:b", 32, 24, 16),
        knob("kernel:a", 7, 5, 3),
    )
)


def test_every_choice_is_drawn_equally_often_in_every_cycle() -> None:
    for one in SPACE.knobs:
        for first in range(0, 60, len(one.choices)):
            drawn = [draw(SPACE, 5, first + place).choices[one.name] for place in range(len(one.choices))]
            assert Counter(drawn) == Counter(one.choices)


def test_knobs_are_drawn_independently_and_by_the_seed() -> None:
    pairs = Counter(
        (found.choices["width:b"], found.choices["kernel:a"])
        for found in (draw(SPACE, 0, n) for n in range(900))
    )
    assert len(pairs) == 9
    assert min(pairs.values()) > 60
    assert [draw(SPACE, 0, n) for n in range(9)] == [draw(SPACE, 0, n) for n in range(9)]
    assert [draw(SPACE, 0, n) for n in range(9)] != [draw(SPACE, 1, n) for n in range(9)]


def test_a_step_trains_the_largest_the_smallest_and_drawn_networks() -> None:
    largest, smallest, *drawn = sandwich(SPACE, 0, 4, 2)
    assert largest == SPACE.identity
    assert smallest.choices == {one.name: one.choices[-1] for one in SPACE.knobs}
    assert drawn == [draw(SPACE, 0, 8), draw(SPACE, 0, 9)]
    assert sandwich(SPACE, 0, 4, 2, largest_every=3) == (smallest, *drawn)


@pytest.mark.parametrize("space", [ArchitectureSpace(()), ArchitectureSpace((knob("width:a", 16),))])
def test_a_space_of_one_network_trains_it_once(space: ArchitectureSpace) -> None:
    assert sandwich(space, 0, 3, 4) == (space.identity,)
    assert space_at(space, 0.0, 0.3).size == 1


def test_knobs_open_in_order() -> None:
    stages = openings(SPACE)
    sizes = [{one.name: len(one.choices) for one in stage.knobs} for stage in stages]
    assert sizes == [
        {"resolution:x": 3, "kernel:a": 2},
        {"resolution:x": 3, "kernel:a": 3},
        {"resolution:x": 3, "kernel:a": 3, "depth:a": 3},
        {"resolution:x": 3, "kernel:a": 3, "depth:a": 5},
        {"resolution:x": 3, "kernel:a": 3, "depth:a": 5, "width:a": 2, "width:b": 2},
        {"resolution:x": 3, "kernel:a": 3, "depth:a": 5, "width:a": 2, "width:b": 3},
    ]
    assert stages[-1] == SPACE or {one.name for one in stages[-1].knobs} == {one.name for one in SPACE.knobs}
    opened = [space_at(SPACE, progress, 0.5) for progress in (0.0, 0.15, 0.25, 0.35, 0.45, 0.5, 1.0)]
    assert opened == [stages[0], stages[1], stages[2], stages[3], stages[4], stages[5], stages[5]]
    assert space_at(SPACE, 0.0, 0.0) == stages[-1]


BRANCHES = ArchitectureSpace(
    (
        ArchitectureKnob("operator:a", KnobKind.OPERATOR, ("x",), (0, 1, 2), ("k3", "k5", "skip")),
        ArchitectureKnob("operator:b", KnobKind.OPERATOR, ("y",), (0, 1, 2, 3, 4), tuple("vwxyz")),
        *SPACE.knobs,
    )
)


@pytest.mark.parametrize("largest_every", [1, 3])
@pytest.mark.parametrize("space", [BRANCHES, ArchitectureSpace(BRANCHES.knobs[:2])])
def test_every_branch_is_trained_equally_often(space: ArchitectureSpace, largest_every: int) -> None:
    """After 15 steps all cycles are whole: 45 smallest and drawn networks, and 15 or 5 largest ones."""
    trained = [one for step in range(45) for one in sandwich(space, 3, step, 2, largest_every)]
    assert len(trained) == 45 * 3 + 45 // largest_every
    for knob in BRANCHES.knobs[:2]:
        counts = Counter(one.choices[knob.name] for one in trained)
        assert set(counts.values()) == {len(trained) // len(knob.choices)}


def test_the_largest_and_the_smallest_are_so_in_their_sizes() -> None:
    largest, smallest, *_ = sandwich(BRANCHES, 0, 4, 2)
    sizes = {one.name for one in SPACE.knobs}
    assert {name: value for name, value in largest.choices.items() if name in sizes} == SPACE.identity.choices
    assert {name: value for name, value in smallest.choices.items() if name in sizes} == SPACE.least.choices


def test_operators_are_open_from_the_start_and_have_no_size() -> None:
    assert {one.name for one in space_at(BRANCHES, 0.0, 0.5).knobs} >= {"operator:a", "operator:b"}
    bounded = BRANCHES.bounded({"width:*": 16})
    assert [knob for knob in bounded.knobs if knob.kind is KnobKind.OPERATOR] == list(BRANCHES.knobs[:2])
    with pytest.raises(
        ConfigurationError, match="no knob matches 'operator:a'; the knobs with a size are resolution:x"
    ):
        BRANCHES.bounded({"operator:a": 1})
