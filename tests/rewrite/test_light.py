"""Graphs that are only to be run: the values that the fake-quantized graph computes."""

import pytest
import torch

from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.light import lighten
from haqnas.rewrite.ptq import quantize_without_training
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import signal_to_noise_db
from tests.zoo import ZOO


@pytest.mark.parametrize("bits", ["w3a4", "w1a2"])
@pytest.mark.parametrize("name", ["resnet20", "ds_cnn", "conv1d", "unet_transposed"])
def test_it_computes_the_same_and_leaves_the_graph_as_it_is(name: str, bits: str) -> None:
    model, inputs = ZOO[name]()
    batch = tuple(torch.randn(8, *part.shape[1:]) for part in inputs)
    fake = quantize_without_training(
        normalise(trace(model, inputs)), Policy(QuantSpec.parse(bits)), [batch] * 2
    )
    with torch.no_grad():
        wanted = fake(*batch)[0]
        given = lighten(fake)(*batch)[0]
        again = fake(*batch)[0]
    assert torch.equal(wanted, again)
    # A value halfway between two steps may be rounded to either, and the difference travels on.
    assert signal_to_noise_db(wanted, given) > 30
    assert (given.argmax(1) == wanted.argmax(1)).float().mean() > 0.99
