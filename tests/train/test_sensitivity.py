"""Sensitivity: the estimate from gradients against the divergence that fewer bits really cause."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from haqnas.errors import UnsupportedModelError
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.quantspec import QuantSpec
from haqnas.train.sensitivity import _direction, estimate_loss, measure_divergence

SPECS = tuple(QuantSpec.parse(text) for text in ("w8a8", "w6a8", "w4a8", "w3a8", "w8a4", "w4a4"))
MILD = SPECS[1:4]


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.wide, self.narrow = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 8, 3, 1, 1)
        self.head = nn.Linear(8, 4)
        self.unused = nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu(self.narrow(functional.relu(self.wide(functional.relu(self.stem(x))))))
        features = x.mean((2, 3))
        return self.head(features) + 0.0 * self.unused(features)


def image_batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(32, 1, 8, 8, generator=generator),) for _ in range(count)]


@pytest.fixture(scope="module")
def canonical():
    torch.manual_seed(0)
    model = Digits().eval()
    with torch.no_grad():
        model.head.weight *= 8  # logits that differ, as those of a trained network
    return normalise(trace(model, (torch.zeros(1, 1, 8, 8),)))


@pytest.fixture(scope="module")
def choices(canonical):
    return {layer.name: SPECS for layer in list_layers(canonical)}


@pytest.fixture(scope="module")
def estimated(canonical, choices):
    return estimate_loss(canonical, image_batches(8, 1), choices, 0, lambda _: None)


@pytest.fixture(scope="module")
def measured(canonical, choices):
    return measure_divergence(canonical, image_batches(8, 1), choices, lambda _: None)


def test_the_estimate_is_the_divergence(estimated, measured):
    pairs = [
        (estimated.of(name, spec), measured.of(name, spec))
        for name in ("stem", "wide", "narrow", "head")
        for spec in MILD
    ]
    guessed, true = np.array(pairs).T
    assert spearmanr(guessed, true).statistic > 0.9
    assert np.exp(np.mean(np.abs(np.log(guessed / true)))) < 1.5


def test_fewer_bits_lose_more(estimated, measured):
    for found in (estimated, measured):
        for wider, narrower in ((0, 2), (2, 3), (0, 4), (2, 5)):
            sums = [
                sum(by_spec[SPECS[index]] for by_spec in found.losses.values()) for index in (wider, narrower)
            ]
            assert sums[0] < sums[1]


def test_a_layer_without_a_say_loses_nothing(estimated, measured):
    assert set(estimated.losses["unused"].values()) == {0.0}
    assert max(measured.losses["unused"].values()) < 1e-12


def test_projections_tell_how_errors_of_layers_add_up(canonical, estimated):
    """Two layers at once: the half mean square of the sum of their projections is the divergence that they cause."""
    spec = QuantSpec(3, 8)
    together = 0.5 * np.mean(
        np.square(estimated.projected["wide"][spec] + estimated.projected["narrow"][spec])
    )
    apart = estimated.of("wide", spec) + estimated.of("narrow", spec)
    assert together != pytest.approx(apart, rel=1e-3)
    assert 0.3 < together / apart < 3


def test_equal_seeds_give_equal_estimates(canonical, choices, estimated):
    again = estimate_loss(canonical, image_batches(8, 1), choices, 0, lambda _: None)
    assert again.losses == estimated.losses


def test_random_directions_have_the_fisher_information_of_the_classes():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    likely = torch.softmax(logits, 1)[0]
    drawn = _direction(logits.expand(20000, 3), torch.Generator().manual_seed(3))
    expected = torch.diag(likely) - torch.outer(likely, likely)
    torch.testing.assert_close(drawn.T @ drawn / 20000, expected, rtol=0, atol=0.01)


def test_outputs_that_are_no_classes_count_their_relative_error():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)).eval()
    graph = normalise(trace(model, (torch.zeros(1, 1, 8, 8),)))
    specs = {layer.name: MILD for layer in list_layers(graph)}
    guessed = estimate_loss(graph, image_batches(16, 2), specs, 0, lambda _: None)
    true = measure_divergence(graph, image_batches(16, 2), specs, lambda _: None)
    for name in specs:
        for spec in MILD:
            assert guessed.of(name, spec) == pytest.approx(true.of(name, spec), rel=0.4)


def test_values_that_are_not_finite_are_told(canonical, choices):
    with pytest.raises(UnsupportedModelError, match="stem reads NaN or infinity"):
        estimate_loss(canonical, [(torch.full((4, 1, 8, 8), torch.nan),)], choices, 0, lambda _: None)
