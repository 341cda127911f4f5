"""Which channels can only be removed together, and which not at all."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from haqnas.graph.channels import FIXED, map_channels
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.graph.widths import find_width_groups


class Net(nn.Module):
    """Two convolutions of the image, `body` between them and a linear layer of the mean."""

    def __init__(self, body, features=8, channels=8, **layers):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, channels, 3), nn.Conv2d(3, channels, 3)
        self.head = nn.Linear(features, 4)
        self.body = body
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        y = self.body(self, torch.relu(self.left(x)), torch.relu(self.right(x)))
        return self.head(y.mean((2, 3)) if y.dim() == 4 else y)


def groups_of(model, *shape):
    graph = normalise(trace(model.eval(), (torch.randn(1, *(shape or (3, 8, 8))),)))
    return {
        group.name: (len(group.units), group.layers)
        for group in find_width_groups(graph, map_channels(graph))
    }


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.scale, self.plane = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(1, 6, 6))

    def forward(self, x):
        return self.head((self.conv(x) * self.scale + self.plane).mean((2, 3)))


TIES = {
    "sum": (Net(lambda net, a, b: a + b), {"left": (8, ("left", "right"))}),
    "product": (Net(lambda net, a, b: a * b), {"left": (8, ("left", "right"))}),
    "concatenation": (
        Net(lambda net, a, b: torch.cat((a, b), 1), 16),
        {"left": (8, ("left",)), "right": (8, ("right",))},
    ),
    "rows after one another": (Net(lambda net, a, b: torch.cat((a, b), 2)), {"left": (8, ("left", "right"))}),
    "a channel twice": (Net(lambda net, a, b: torch.cat((a, a + b), 1), 16), {"left": (8, ("left", "right"))}),
    "depthwise": (
        Net(lambda net, a, b: torch.cat((net.deep(a), b), 1), 24, deep=nn.Conv2d(8, 16, 3, groups=8, padding=1)),
        {"left": (8, ("left", "deep")), "right": (8, ("right",))},
    ),
    "grouped": (
        Net(lambda net, a, b: net.deep(a) + b, deep=nn.Conv2d(8, 8, 1, groups=4)),
        {"left": (4, ("left", "right", "deep"))},
    ),
    "gate": (
        Net(
            lambda net, a, b: torch.cat((a * torch.sigmoid(net.up(net.down(a.mean((2, 3), keepdim=True)))), b), 1),
            16,
            down=nn.Conv2d(8, 4, 1),
            up=nn.Conv2d(4, 8, 1),
        ),
        {"left": (8, ("left", "up")), "right": (8, ("right",)), "down": (4, ("down",))},
    ),
    "gate of pixels": (
        Net(lambda net, a, b: a * torch.sigmoid(net.one(b)), one=nn.Conv2d(8, 1, 1)),
        {"left": (8, ("left",)), "right": (8, ("right",))},
    ),
    "halves": (
        Net(lambda net, a, b: net.part(a[:, :4]) + a[:, 4:] + b[:, :4], 4, part=nn.Conv2d(4, 4, 1)),
        # the second half of `left` goes with `part`, and with the first of `right`; the rest of `right` is not read
        {"left": (4, ("left", "right", "part")), "left/2": (4, ("left",)), "right": (4, ("right",))},
    ),
    "zero channels": (
        Net(
            lambda net, a, b: functional.pad(a, (0, 0, 0, 0, 2, 6)) + net.wide(b), 16, wide=nn.Conv2d(8, 16, 1)
        ),
        {"left": (8, ("left", "wide")), "right": (8, ("right",)), "wide": (8, ("wide",))},
    ),
    "flattened": (
        Net(lambda net, a, b: (a + 1).flatten(1), 8 * 36), {"left": (8, ("left",))}
    ),
    "tokens": (
        Net(
            lambda net, a, b: net.mix(a.flatten(2).transpose(1, 2)).relu().mean(1),
            6,
            mix=nn.Linear(8, 6),
        ),
        {"left": (8, ("left",)), "mix": (6, ("mix",))},
    ),
    "constants": (Scaled(), {"conv": (8, ("conv",))}),
}  # fmt: skip


@pytest.mark.parametrize("case", TIES)
def test_channels_are_tied(case):
    model, expected = TIES[case]
    assert groups_of(model) == expected


class Outputs(nn.Module):
    """What reaches an output, or is made of the input without a layer, stays."""

    def __init__(self):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.free, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.conv(x) + x
        return y, self.last(self.free(self.deep(x)))


class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 1, groups=2),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x):
        return self.head(nn.ChannelShuffle(2)(self.second(self.first(x))))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.conv(torch.relu(self.conv(x))).mean((2, 3)))


class Normed(nn.Module):
    """A norm over channels divides by what all of them are."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.head(self.norm(self.conv(x).mean((2, 3))))


class Mixed(nn.Module):
    """A linear layer along rows does not read channels; softmax over channels does."""

    def __init__(self):
        super().__init__()
        self.conv, self.rows, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.rows(self.conv(x)).softmax(1).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Outputs(), {"free": (8, ("free",))}),
        (Shuffled(), {}),
        (Twice(), {}),
        (Normed(), {}),
        (Mixed(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_proven_stays(model, expected):
    assert groups_of(model, 8, 8, 8) == expected


def test_the_most_important_channels_come_first():
    net = Net(lambda net, a, b: a + b)
    with torch.no_grad():
        for layer in (net.left, net.right):
            layer.weight.copy_(torch.ones_like(layer.weight))
        net.left.weight[3] *= -5
        net.right.weight[6] *= 2
        net.right.weight[3] *= 0.1
    graph = normalise(trace(net.eval(), (torch.zeros(1, 3, 8, 8),)))
    channels = map_channels(graph)
    (group,) = find_width_groups(graph, channels)
    made = channels.tied[channels.made["left"]]
    order = [int(np.flatnonzero(made == unit)[0]) for unit in group.units]
    assert order == [3, 6, 0, 1, 2, 4, 5, 7]  # equal ones in their order
    assert channels.tied[FIXED] not in group.units
