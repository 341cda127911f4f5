"""Networks on shared weights: each computes what the graph that is cut out computes, at the cost of no graph."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from haqnas.errors import ConfigurationError
from haqnas.graph.edit import shape_of
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.rewrite.elastic import cut_network, read_structure, run_cut
from haqnas.rewrite.shared import SharedLayer, measure_statistics, share_weights
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureSpace
from haqnas.space.elastic import Elasticity, derive_architecture_space
from haqnas.train.sandwich import draw
from haqnas.train.supernet import resize_images, train_supernet
from haqnas.train.supernet_recipe import SupernetRecipe
from tests.rewrite.pipeline import canonical_graph, signal_to_noise_db
from tests.rewrite.test_specialise import STEPS, random_network
from tests.zoo import ZOO

UNTRAINED = SupernetRecipe(time_s=0)
NETWORKS = ("resnet20", "mobilenet_v2", "densenet_block", "conv1d", "unet_transposed")


def example(canonical: GraphModule, count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = [shape_of(node) for node in canonical.graph.nodes if node.op == "placeholder"]
    return tuple(torch.randn(count, *shape[1:], generator=generator) for shape in shapes)


@cache
def shared_network(name: str) -> tuple[GraphModule, ArchitectureSpace]:
    canonical = normalise(trace(*ZOO[name]()))
    return canonical, derive_architecture_space(canonical)


@pytest.fixture
def one_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms normalise by the unbiased variance, as which torch keeps what it measures: no sample is too small."""
    real = torch.nn.functional.batch_norm

    def batch_norm(
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        training: bool,
        momentum: float = 0.0,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return real(x, running_mean, running_var, weight, bias, training, momentum, eps)
        variance, mean = torch.var_mean(x, [dim for dim in range(x.ndim) if dim != 1], keepdim=True)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.flatten(), momentum)
            running_var.lerp_(variance.flatten(), momentum)
        shape = mean.shape
        return (x - mean) / (variance + eps).sqrt() * weight.reshape(shape) + bias.reshape(shape)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", batch_norm)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_candidate_computes_what_its_own_graph_computes(name: str, one_variance: None) -> None:
    canonical, space = shared_network(name)
    batch = example(canonical, 4)
    supernet = train_supernet(canonical, space, None, [batch], UNTRAINED, 0)
    for number in range(2):
        candidate = draw(space, 7, number)
        inputs = resize_images(space, candidate, batch)
        graph = supernet.cut(candidate, [batch])
        with torch.no_grad():
            shared = run_cut(supernet.shared, cut_network(supernet.structure, candidate), inputs)
            own = graph.eval()(*inputs)
        assert [part.shape for part in own] == [part.shape for part in canonical(*batch)]
        assert all(signal_to_noise_db(*pair) > 60 for pair in zip(own, shared, strict=True))


@pytest.mark.parametrize("name", ["resnet20", "densenet_block"])
def test_the_largest_network_begins_as_the_network_that_it_is_of(name: str) -> None:
    canonical, space = shared_network(name)
    batch = example(canonical, 32)
    supernet = train_supernet(canonical, space, None, [batch], UNTRAINED, 0)
    with torch.no_grad():
        found, wanted = supernet.cut(space.identity, [batch])(*batch), canonical(*batch)
    assert all(signal_to_noise_db(*pair) > 40 for pair in zip(wanted, found, strict=True))


@settings(max_examples=15)
@given(STEPS, st.integers(0, 1000))
def test_without_batch_norm_a_candidate_is_the_specialised_graph(
    steps: list[tuple[str, int, int]], number: int
) -> None:
    graph = random_network(steps)
    space = derive_architecture_space(graph, Elasticity(channel_multiple=2))
    candidate = draw(space, 3, number)
    shared = share_weights(graph, space, measure_statistics(graph, []))
    inputs = resize_images(space, candidate, example(graph, 2))
    with torch.no_grad():
        found = run_cut(shared, cut_network(read_structure(graph, space), candidate), inputs)
        wanted = specialise(graph, space, candidate)(*inputs)
    assert all(torch.allclose(left, right, atol=1e-5) for left, right in zip(wanted, found, strict=True))


class Wide(nn.Module):
    """A 7x7 and a depthwise 5x5 convolution with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_bn = nn.Conv2d(2, 16, 7, padding=3, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first_bn(self.first(x)))
        return self.head(torch.relu(self.depthwise_bn(self.depthwise(x))).mean((2, 3)))


def wide() -> tuple[GraphModule, ArchitectureSpace]:
    canonical = canonical_graph(Wide(), (2, 16, 16))
    return canonical, derive_architecture_space(canonical)


def test_kernels_are_made_by_learned_matrices() -> None:
    canonical, space = wide()
    batch = example(canonical, 32)
    supernet = train_supernet(canonical, space, None, [batch], UNTRAINED, 0)
    layer = supernet.shared.get_submodule("first")
    assert isinstance(layer, SharedLayer)
    assert {name: tuple(matrix.shape) for name, matrix in layer.transforms.items()} == {
        "5": (25, 25),
        "3": (9, 9),
    }
    candidate = Architecture({"kernel:first": 3, "kernel:depthwise": 3, "width:first": 8})
    cut = cut_network(supernet.structure, candidate)
    with torch.no_grad():
        layer.transforms["5"].normal_()
        own = supernet.cut(candidate, [batch])(*batch)[0]
        shared = run_cut(supernet.shared, cut, batch)[0]
    assert signal_to_noise_db(own, shared) > 40
    run_cut(supernet.shared, cut, batch)[0].square().sum().backward()
    assert all(layer.transforms[size].grad.abs().sum() > 0 for size in ("5", "3"))
    assert layer.weight.grad[:, :, 0].abs().sum() == 0 < layer.weight.grad[:, :, 1].abs().sum()


def test_measured_statistics_are_those_of_the_candidate() -> None:
    """Outputs of a layer that was cut out have the mean and deviation that its batch norm asks for."""
    canonical, space = wide()
    batch = example(canonical, 64)
    supernet = train_supernet(canonical, space, None, [batch], UNTRAINED, 0)
    candidate = Architecture({"width:first": 8, "kernel:first": 5})
    graph = supernet.cut(candidate, [batch])
    shared = supernet.shared.get_submodule("first")
    part = cut_network(supernet.structure, candidate).parts["first"]
    with torch.no_grad():
        made = graph.get_submodule("first")(*batch)
        variance, mean = torch.var_mean(made, (0, 2, 3))
    assert isinstance(shared, SharedLayer)
    factor, shift = shared.affine(part)
    assert torch.allclose(mean, shift, atol=1e-4)
    assert torch.allclose(variance.sqrt(), factor, rtol=1e-2)


def test_a_graph_that_was_cut_out_knows_its_batch_norms_when_it_is_traced_again() -> None:
    canonical, space = wide()
    batch = example(canonical, 32)
    graph = train_supernet(canonical, space, None, [batch], UNTRAINED, 0).cut(
        Architecture({"width:first": 8}), [batch]
    )
    again = normalise(trace(graph, example(canonical, 1)))
    assert measure_statistics(again, [batch]).keys() == {"first", "depthwise"}
    with torch.no_grad():
        assert torch.allclose(again(*batch)[0], graph(*batch)[0], atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    canonical, space = wide()
    batch = example(canonical, 4)
    supernet = train_supernet(canonical, space, None, [batch], UNTRAINED, 0)
    with pytest.raises(ConfigurationError, match="at least 2 samples"):
        supernet.cut(space.identity, [tuple(part[:1] for part in batch)])
    with pytest.raises(ConfigurationError, match="at least one batch"):
        supernet.cut(space.identity, [])
    with pytest.raises(ConfigurationError, match="at least one batch"):
        train_supernet(canonical, space, None, [], UNTRAINED, 0)
    with pytest.raises(ConfigurationError, match="may be 16, 8"):
        supernet.cut(Architecture({"width:first": 11}), [batch])
    other, its_space = shared_network("resnet20")
    for graph, knobs in ((other, space.knobs), (canonical, its_space.knobs)):
        for knob in knobs:
            with pytest.raises(ConfigurationError, match="another network"):
                read_structure(graph, ArchitectureSpace((knob,)))
