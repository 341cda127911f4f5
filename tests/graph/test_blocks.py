"""Residual blocks that keep the shape of their input."""

import pytest
import torch
from torch import nn

from haqnas.graph.blocks import find_stages
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


class Net(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.stem, self.a, self.b, self.c, self.head = conv(), conv(), conv(), conv(), nn.Linear(4, 2)
        self.body = body

    def forward(self, x):
        return self.head(self.body(self, torch.relu(self.stem(x))).mean((2, 3)))


def stages_of(body):
    graph = normalise(trace(Net(body).eval(), (torch.zeros(1, 4, 6, 6),)))
    return graph, find_stages(graph)


def layers_of(body):
    return [[block.layers for block in stage] for stage in stages_of(body)[1]]


def chain(net, x):
    for layer in (net.a, net.b, net.c):
        x = torch.relu(layer(x) + x)
    return x


def test_blocks_that_follow_each_other_are_one_stage():
    assert layers_of(chain) == [[("a",), ("b",), ("c",)]]


def test_layers_between_blocks_end_a_stage():
    assert layers_of(lambda net, x: net.c(x + net.b(net.a(x)))) == [[("a", "b")]]
    assert layers_of(lambda net, x: (y := net.b(x + net.a(x))) + net.c(y)) == [[("a",)], [("c",)]]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda net, x: net.a(x) + net.b(x), "no shortcut"),
        (lambda net, x: (y := net.a(x)) * (x + y), "something else reads the inside"),
        (lambda net, x: 2 * x + net.a(x), "the sum is of something else than the block reads"),
        (lambda net, x: x + torch.tanh(x), "no layer inside"),
        (lambda net, x: x * net.a(x), "no sum"),
        (lambda net, x: x.mean((2, 3), keepdim=True) + net.a(x), "the shortcut has another shape"),
    ],
)
def test_what_is_no_block(body, why):
    assert layers_of(body) == [], why


def test_blocks_inside_of_blocks_go_by_themselves():
    assert layers_of(lambda net, x: x + net.b((y := net.a(x)) + net.c(y))) == [[("c",)]]


def result_of(body):
    graph, ((block, *_), *_) = stages_of(body)
    (node,) = (node for node in graph.graph.nodes if node.name == block.result)
    return str(node.target).removeprefix("aten.")


def test_an_activation_that_changes_nothing_goes_with_its_block():
    assert result_of(chain) == "relu.default"
    pooled = lambda net, x: chain(net, nn.functional.max_pool2d(x, 3, 1, 1))  # noqa: E731
    assert result_of(pooled) == "relu.default"
    assert result_of(lambda net, x: net.c(x + net.a(x))) == "add.Tensor"
    assert (
        result_of(lambda net, x: torch.relu((y := net.b(x)) + net.a(y))) == "add.Tensor"
    )  # y may be negative
    assert result_of(lambda net, x: nn.functional.relu6(x + net.a(x))) == "add.Tensor"  # x may exceed 6
