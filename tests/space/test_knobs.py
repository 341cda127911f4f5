"""Search spaces: which layers may get which bits, and what the user's rules say of it."""

import pytest
import torch
from torch import nn

from haqnas.errors import ConfigurationError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.quantspec import QuantSpec
from haqnas.space.knobs import Candidate, Pin, Rules, derive_space, outermost_layers

WIDE, W4, W2 = QuantSpec(8, 8), QuantSpec(4, 8), QuantSpec(2, 4)


class Branches(nn.Module):
    """Two layers see the image, two make the outputs, three lie between."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.deep = nn.Conv2d(4, 4, 1)
        self.head, self.other = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        y = self.deep(self.body(torch.relu(self.left(x) + self.right(x)))).mean((2, 3))
        return self.head(y), self.other(y)


@pytest.fixture(scope="module")
def graph():
    return normalise(trace(Branches().eval(), (torch.zeros(1, 3, 8, 8),)))


def choices(space):
    return {knob.name: knob.choices for knob in space.knobs}


def test_outermost_layers_see_the_input_or_make_an_output(graph):
    assert outermost_layers(graph) == ("left", "right", "head", "other")


def test_every_layer_between_gets_the_legal_bits_and_eight(graph):
    space = derive_space(graph, [W2, W4], Rules())
    assert choices(space) == {
        **dict.fromkeys(("left", "right", "head", "other"), (WIDE,)),
        **dict.fromkeys(("body.0", "body.2", "deep"), (WIDE, W4, W2)),
    }
    assert space.size == 27
    assert space.specs == (WIDE, W4, W2)


def test_rules_fix_layers_and_free_the_outermost(graph):
    rules = Rules(pins=(Pin("deep", W2),), include=("left", "body.*"), exclude=("*.2",))
    found = choices(derive_space(graph, [W4], rules))
    assert found["left"] == found["body.0"] == (WIDE, W4)
    assert found["deep"] == (W2,)
    for name in ("body.2", "right", "head", "other"):
        assert found[name] == (WIDE,)


def test_a_pin_goes_before_an_exclusion_and_the_default_of_outermost_layers(graph):
    rules = Rules(pins=(Pin("head", W4), Pin("body.0", W4)), exclude=("body.*",))
    found = choices(derive_space(graph, [W2], rules))
    assert (found["head"], found["body.0"], found["body.2"]) == ((W4,), (W4,), (WIDE,))


def test_a_candidate_is_a_policy(graph):
    space = derive_space(graph, [W4], Rules())
    candidate = Candidate({knob.name: knob.choices[-1] for knob in space.knobs})
    policy = candidate.policy(space)
    assert (policy.spec_of("deep"), policy.spec_of("head")) == (W4, WIDE)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Rules(include=("conv9",)), r"--include: no layer matches 'conv9'; the layers are left, right"),
        (Rules(exclude=("head", "x*")), r"--exclude: no layer matches 'x\*'"),
        (Rules(pins=(Pin("x", W4),)), r"--pin: no layer matches 'x'"),
        (Rules(pins=(Pin("body.*", W4), Pin("*.2", W2))), r"--pin: body\.2 cannot have both w4a8 and w2a4"),
    ],
)
def test_rules_that_do_not_fit_are_told(graph, rules, words):
    with pytest.raises(ConfigurationError, match=words):
        derive_space(graph, [W4], rules)


def test_a_pin_is_read_from_text():
    assert Pin.parse("layer4.*=4") == Pin("layer4.*", QuantSpec(4, 4))
    for text in ("layer4", "=w4a8", "layer4=w99"):
        with pytest.raises(ConfigurationError):
            Pin.parse(text)
