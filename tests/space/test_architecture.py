"""Architectures as values: spaces, candidates and their JSON."""

import pytest

from haqnas.errors import ConfigurationError
from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind

SPACE = ArchitectureSpace(
    (
        ArchitectureKnob("width:a", KnobKind.WIDTH, ("a", "b"), (32, 24, 16)),
        ArchitectureKnob("kernel:b", KnobKind.KERNEL, ("b",), (5, 3)),
    )
)


def test_a_space_knows_its_size_and_the_network_as_it_is():
    assert SPACE.size == 6
    assert dict(SPACE.identity.choices) == {"width:a": 32, "kernel:b": 5}
    SPACE.check(SPACE.identity)
    SPACE.check(Architecture({"kernel:b": 3}))
    assert ArchitectureSpace(()).size == 1


def test_a_space_without_its_least_choices():
    bounded = SPACE.bounded({"width:*": 20, "kernel:b": 5})
    assert [(knob.name, knob.choices) for knob in bounded.knobs] == [("width:a", (32, 24))]
    assert SPACE.bounded({}) == SPACE
    assert SPACE.bounded({"*": 16, "width:a": 24}).knobs == bounded.knobs
    with pytest.raises(
        ConfigurationError, match=r"no knob matches 'depth:\*'; the knobs with a size are width:a, kernel:b"
    ):
        SPACE.bounded({"depth:*": 1})


def test_a_space_opens_by_shares_of_its_smaller_choices():
    half = SPACE.opened({KnobKind.WIDTH: 0.5, KnobKind.KERNEL: 0.0})
    assert [(knob.name, knob.choices) for knob in half.knobs] == [("width:a", (32, 24))]
    assert SPACE.opened({}) == SPACE == SPACE.opened(dict.fromkeys(KnobKind, 1.0))
    assert dict(SPACE.opened({KnobKind.WIDTH: 0.1}).least.choices) == {"width:a": 24, "kernel:b": 3}


@pytest.mark.parametrize("choices", [{}, {"width:a": 16}, {"width:a": 24, "kernel:b": 3}])
def test_json_round_trip(choices):
    candidate = Architecture(choices)
    assert Architecture.from_json(candidate.to_json()) == candidate


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"depth:a": 1}, "no knob.*width:a, kernel:b"), ({"width:a": 20}, "width:a may be 32, 24, 16.*20")],
)
def test_what_is_not_in_the_space_is_refused(choices, message):
    with pytest.raises(ConfigurationError, match=message):
        SPACE.check(Architecture(choices))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "my file is not JSON"),
        ("[]", "must be an object"),
        ('{"schema": 2, "choices": {}}', '"schema": 1'),
        ('{"schema": 1}', "has the keys"),
        ('{"schema": 1, "choices": [], "x": 1}', "has the keys"),
        ('{"schema": 1, "choices": {"width:a": 2.5}}', "width:a must be a whole number.*2.5"),
        ('{"schema": 1, "choices": {"width:a": true}}', "whole number"),
    ],
)
def test_json_of_anything_else_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        Architecture.from_json(text, "my file")
