"""What a training step of a fake-quantized network costs beside the float one: at most twice as much."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.trainable import make_trainable
from haqnas.space.policy import Policy
from tests.zoo import ZOO

GREATEST_RATIO = 2.0
BATCH_SIZE = 128
ROUNDS = 7

pytestmark = [pytest.mark.benchmarks]


def step_of(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """A training step in float32; gives its seconds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> float:
        start_s = time.perf_counter()
        optimizer.zero_grad()
        outputs = model(images)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
        return time.perf_counter() - start_s

    return step


def test_quantized_step_costs_at_most_twice_the_float_one() -> None:
    model, inputs = ZOO["resnet20"]()
    canonical = normalise(trace(model, inputs))
    batches = [(torch.randn(8, 3, 32, 32),)]
    fake = calibrate(quantize(canonical, Policy(QuantSpec(4, 4))), batches)
    images, labels = torch.randn(BATCH_SIZE, 3, 32, 32), torch.randint(0, 10, (BATCH_SIZE,))
    quantized = step_of(make_trainable(fake, canonical, batches).train(), images, labels)
    plain = step_of(model.train(), images, labels)
    ratios = [quantized() / plain() for _ in range(ROUNDS + 1)][1:]
    print(f"\nresnet20 w4a4, batch {BATCH_SIZE}: {statistics.median(ratios):.2f} of the float step")
    assert statistics.median(ratios) <= GREATEST_RATIO
