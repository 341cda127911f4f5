"""Ways of quantizing without training: each does what its name says, and none loses the network."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haqnas.errors import ConfigurationError
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.ptq import check_method, quantize_without_training
from haqnas.rewrite.quantize import read_integer_weight
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import canonical_graph, signal_to_noise_db

W3A8 = Policy(QuantSpec(3, 8))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x + F.relu(self.second(x))
        return self.head(F.relu(self.depthwise(x)).mean((2, 3)))


def correlated(count: int) -> Tensor:
    """Images whose neighbouring pixels are alike: only then is there something that weights can make up for."""
    return F.interpolate(torch.randn(count, 3, 4, 4), size=12, mode="bilinear")


@pytest.mark.parametrize("method", ["plain", "corrected", "equalized", "gptq", "matched"])
def test_each_method_gives_a_network_close_to_the_float_one(method: str) -> None:
    canonical = canonical_graph(Net(), (3, 12, 12))
    batches = [(correlated(32),) for _ in range(4)]
    fake = quantize_without_training(canonical, W3A8, batches, method)  # type: ignore[arg-type]
    x = correlated(64)
    with torch.no_grad():
        wanted, simulated, integer = (graph(x)[0] for graph in (canonical, fake, integerize(fake)))
    assert signal_to_noise_db(wanted, integer) > 10
    assert signal_to_noise_db(simulated, integer) > 25


def test_gptq_rounds_other_weights_up_and_the_outputs_get_closer() -> None:
    canonical = canonical_graph(Net(), (3, 12, 12))
    batches = [(correlated(32),) for _ in range(8)]
    plain, rounded = (
        quantize_without_training(canonical, W3A8, batches, method) for method in ("plain", "gptq")
    )
    before, after = (read_integer_weight(g.get_submodule("second")).values for g in (plain, rounded))
    assert (before != after).float().mean() > 0.05
    x = batches[0][0]
    with torch.no_grad():
        wanted = canonical.get_submodule("first")(x)
        errors = [(g.get_submodule("first")(x) - wanted).square().mean() for g in (plain, rounded)]
    assert errors[1] < 0.7 * errors[0]


def test_an_unknown_method_is_a_configuration_error() -> None:
    with pytest.raises(
        ConfigurationError, match="plain, corrected, equalized, gptq, matched, but got 'magic'"
    ):
        check_method("magic")
