import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.quantspec import QuantSpec, weight_range
from haqnas.rewrite.quantize import equalize, quantize, read_integer_weight
from haqnas.rewrite.weight_scales import weight_scales
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import canonical_graph

W4A8 = Policy(QuantSpec(4, 8))


def test_input_graph_is_unchanged() -> None:
    graph = canonical_graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), (3, 6, 6))
    code, state = graph.code, {name: value.clone() for name, value in graph.state_dict().items()}
    quantized = quantize(graph, W4A8)
    with torch.no_grad():
        quantized.get_submodule("0").weight.zero_()  # type: ignore[operator, union-attr]
    assert graph.code == code
    assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())


@pytest.mark.parametrize("weight_bits", range(1, 9))
def test_integer_weights_are_in_range_and_equal_the_simulated_ones(weight_bits: int) -> None:
    layer = nn.ConvTranspose2d(5, 7, 3)
    quantized = quantize(canonical_graph(layer, (5, 6, 6)), Policy(QuantSpec(weight_bits, 8)))
    (module,) = (m for m in quantized.modules() if hasattr(m, "weight_quant"))
    weight = read_integer_weight(module)
    low, high = weight_range(weight_bits)
    assert low <= int(weight.values.min()) <= int(weight.values.max()) <= high
    assert weight.scale.shape == (7,)
    simulated = module.quant_weight().value.detach()  # type: ignore[operator]
    assert torch.allclose(weight.values * weight.scale[None, :, None, None], simulated, rtol=1e-5, atol=0)
    if weight_bits == 1:
        assert set(weight.values.unique().tolist()) == {-1, 1}


@given(st.integers(1, 8), st.integers(0, 2**31 - 1))
def test_chosen_scales_are_no_worse_than_the_greatest_weight(weight_bits: int, seed: int) -> None:
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed)) ** 3
    high = weight_range(weight_bits)[1]

    def error(scale: Tensor) -> Tensor:
        if weight_bits == 1:
            rounded = torch.where(weight < 0, -1.0, 1.0)
        else:
            rounded = torch.round(weight / scale).clamp(-high, high)
        return (rounded * scale - weight).square().sum(1)

    widest = weight.abs().amax(1, keepdim=True) / high
    assert (error(weight_scales(weight, weight_bits, 0)) <= error(widest) * (1 + 1e-5)).all()


def test_policy_with_an_unknown_layer_is_a_configuration_error() -> None:
    graph = canonical_graph(nn.Sequential(nn.Linear(3, 4)), (3,))
    with pytest.raises(ConfigurationError, match="nowhere"):
        quantize(graph, Policy(QuantSpec(8, 8), {"nowhere": QuantSpec(4, 4)}))


def test_weights_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    graph = canonical_graph(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,))
    with torch.no_grad():
        graph.get_submodule("1").weight[0, 0] = float("nan")  # type: ignore[operator, index]
    with pytest.raises(UnsupportedModelError, match="weights of 1 must be finite"):
        quantize(graph, W4A8)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.second(F.relu(self.first(x)))
        return self.head(x.mean((2, 3)))


def test_equalization_keeps_the_function_and_evens_out_ranges() -> None:
    module = Residual()
    with torch.no_grad():
        module.first.weight.mul_(torch.logspace(-2, 2, 8)[:, None, None, None])
    graph = canonical_graph(module, (3, 8, 8))
    equalized = equalize(graph)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(graph(x)[0], equalized(x)[0], rtol=1e-3, atol=1e-4)
    ranges = [g.get_parameter("first.weight").detach().abs().amax((1, 2, 3)) for g in (graph, equalized)]
    spread = [float(r.max() / r.min()) for r in ranges]
    assert spread[1] < spread[0] / 10


def test_quantized_graph_can_be_trained() -> None:
    graph = quantize(canonical_graph(Residual(), (3, 8, 8)), W4A8)
    graph.train()
    graph(torch.randn(2, 3, 8, 8))[0].square().sum().backward()
    trainable = dict(graph.named_parameters())
    assert all(p.grad is not None for name, p in trainable.items() if name.endswith(("weight", "bias")))
