"""Other resolutions of the input image."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from haqnas.graph.normalise import check, normalise
from haqnas.graph.resize import resize_input
from haqnas.graph.trace import trace


class Net(nn.Module):
    def __init__(self, body, features=4):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head, self.body = nn.Linear(features, 2), body
        self.plane, self.scale = nn.Parameter(torch.rand(1, 16, 24)), nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x):
        return self.head(self.body(self, torch.relu(self.conv(x))))


LEGAL = {
    "mean": lambda net, x: x.mean((2, 3)),
    "mean of pixels in a row": lambda net, x: x.flatten(2).mean(2),
    "adaptive": lambda net, x: functional.adaptive_avg_pool2d(net.deep(x), 1).flatten(1),
    "pool as large as the image": lambda net, x: functional.avg_pool2d(x, x.shape[2:]).flatten(1),
    "greatest pixel": lambda net, x: functional.max_pool2d(x, x.shape[2:]).flatten(1),
    "pools": lambda net, x: functional.avg_pool2d(functional.max_pool2d(x, 3, 2, 1), 2).mean((2, 3)),
    "every second pixel": lambda net, x: (x[:, :, ::2, 1::2] * net.scale + net.deep(x)).mean((2, 3)),
    "upsampling": lambda net, x: (functional.interpolate(net.deep(x), scale_factor=2) + x).mean((2, 3)),
    "channel shuffle": lambda net, x: (
        x.reshape(-1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(-1, 4, *x.shape[2:]).mean((2, 3))
    ),
}


@pytest.mark.parametrize("case", LEGAL)
def test_a_network_of_any_size_is_that_of_its_code(case):
    model = Net(LEGAL[case]).eval()
    graph = normalise(trace(model, (torch.zeros(1, 3, 16, 24),)))
    resized = resize_input(graph, 8)
    check(resized)
    image = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        assert torch.allclose(resized(image)[0], model(image), atol=1e-5)
        assert torch.equal(graph(torch.ones(1, 3, 16, 24))[0], model(torch.ones(1, 3, 16, 24)))


ILLEGAL = {
    "features of pixels": (lambda net, x: x.flatten(1), 4 * 16 * 24),
    "fixed pool": (lambda net, x: functional.avg_pool2d(x, 8).flatten(1), 4 * 2 * 3),
    "rows as features": (lambda net, x: x.mean((1, 2)), 24),
    "a constant image": (lambda net, x: (x + net.plane).mean((2, 3)), 4),
    "a crop": (lambda net, x: x[:, :, 1:-1].mean((2, 3)), 4),
    "two halves of the image": (lambda net, x: (x[:, :, :8] + x[:, :, 8:]).mean((2, 3)), 4),
    "a sum of pixels": (lambda net, x: x.sum((2, 3)) / (16 * 24), 4),
    "unfolded": (lambda net, x: nn.PixelUnshuffle(8)(x).mean((2, 3)), 4 * 64),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_a_network_of_one_size_is_not_resized(case):
    body, features = ILLEGAL[case]
    graph = normalise(trace(Net(body, features).eval(), (torch.zeros(1, 3, 16, 24),)))
    assert resize_input(graph, 8) is None


def test_an_output_that_is_an_image_has_one_resolution():
    graph = normalise(trace(nn.Conv2d(3, 4, 3, padding=1).eval(), (torch.zeros(1, 3, 8, 8),)))
    assert resize_input(graph, 4) is None


def test_proportions_stay():
    graph = normalise(trace(Net(LEGAL["mean"]).eval(), (torch.zeros(1, 3, 16, 24),)))
    assert resize_input(graph, 10) is not None
    assert resize_input(graph, 9) is None
