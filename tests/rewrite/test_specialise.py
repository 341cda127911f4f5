"""One architecture of a space as a network of its own: it runs, is smaller, and compiles."""

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from haqnas.codegen.lower import lower
from haqnas.errors import ConfigurationError
from haqnas.graph.channels import map_channels
from haqnas.graph.edit import emit, emit_module, finish, shape_of
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import check, normalise
from haqnas.graph.trace import trace
from haqnas.graph.widths import find_width_groups
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureSpace, KnobKind
from haqnas.space.elastic import Elasticity, derive_architecture_space, width_name
from haqnas.space.policy import Policy
from tests.kernels.test_table import shipped_profile
from tests.zoo import ZOO

aten = torch.ops.aten


def macs(graph):
    return sum(layer.macs for layer in list_layers(graph))


def run(graph, batch=2, seed=0):
    """Outputs on random inputs of the shapes that the graph's inputs have."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape_of(node) for node in graph.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        return graph(*(torch.randn(batch, *shape[1:], generator=generator) for shape in shapes))


def assert_is_what_it_says(graph):
    """The graph is well formed, and every node has the shape that it knows."""
    check(graph)

    class Compare(fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            if n.op != "output":
                assert tuple(value.shape) == shape_of(n), n
            return value

    with torch.no_grad():
        inputs = [torch.zeros(shape_of(node)) for node in graph.graph.nodes if node.op == "placeholder"]
        Compare(graph).run(*inputs)


def assert_specialises(graph: GraphModule, space: ArchitectureSpace, candidate: Architecture) -> GraphModule:
    smaller = specialise(graph, space, candidate)
    assert_is_what_it_says(smaller)
    assert macs(smaller) < macs(graph)
    assert [out.shape for out in run(smaller)] == [out.shape for out in run(graph)]
    return smaller


def least(space: ArchitectureSpace, *kinds: KnobKind) -> Architecture:
    wanted = kinds or tuple(KnobKind)
    return Architecture({knob.name: knob.choices[-1] for knob in space.knobs if knob.kind in wanted})


def assert_channels_of_zeros_are_nothing(graph: GraphModule, space: ArchitectureSpace) -> None:
    """Where all that makes a channel is zero, removing it changes no output."""
    zeroed = copy.deepcopy(graph)
    channels = map_channels(zeroed)
    candidate = least(space, KnobKind.WIDTH)
    for group in find_width_groups(zeroed, channels):
        width = candidate.choices.get(width_name(group), len(group.units))
        for name in group.layers:
            layer = zeroed.get_submodule(name)
            gone = torch.from_numpy(np.isin(channels.tied[channels.made[name]], group.units[width:]))
            with torch.no_grad():
                weight = (
                    layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
                )
                weight[gone] = 0
                if layer.bias is not None:
                    layer.bias[gone] = 0
    assert candidate.choices
    wanted, found = run(zeroed), run(specialise(zeroed, space, candidate))
    for left, right in zip(wanted, found, strict=True):
        assert left.std() > 0
        assert (left - right).abs().max() <= 1e-4 * left.abs().max() + 1e-6


@cache
def derived(name: str) -> tuple[GraphModule, ArchitectureSpace]:
    graph = normalise(trace(*ZOO[name]()))
    return graph, derive_architecture_space(graph)


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo(name):
    graph, space = derived(name)
    before = graph.code, {key: value.clone() for key, value in graph.state_dict().items()}
    same = specialise(graph, space, space.identity)
    assert all(torch.equal(*pair) for pair in zip(run(graph), run(same), strict=True))
    for knob in {knob.kind: knob for knob in space.knobs}.values():  # the last one of each kind
        assert_specialises(graph, space, Architecture({knob.name: knob.choices[-1]}))
    assert_specialises(graph, space, least(space))
    assert_channels_of_zeros_are_nothing(graph, space)
    assert graph.code == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in graph.state_dict().items())


def test_every_choice_of_every_knob():
    graph, space = derived("resnet20")
    for knob in space.knobs:
        costs = [macs(graph)]
        for value in knob.choices[1:]:
            smaller = specialise(graph, space, Architecture({knob.name: value}))
            check(smaller)
            costs.append(macs(smaller))
        assert costs == sorted(set(costs), reverse=True), knob


@pytest.mark.parametrize(
    ("name", "target", "bits"),
    [
        ("resnet20", "cortex-a72", "w8a8"),
        ("mobilenet_v2", "x86-64-v3", "w4a8"),
        ("squeezenet", "x86-avx512-vnni", "w8a8"),
        ("conv1d", "cortex-a72", "w2a4"),
    ],
)
def test_a_small_network_compiles_like_any_other(name, target, bits):
    graph, space = derived(name)
    for candidate in (least(space), least(space, KnobKind.WIDTH)):
        smaller = specialise(graph, space, candidate)
        shapes = [shape_of(node) for node in smaller.graph.nodes if node.op == "placeholder"]
        batch = tuple(torch.randn(4, *shape[1:]) for shape in shapes)
        integer = integerize(calibrate(quantize(smaller, Policy(QuantSpec.parse(bits))), [batch]))
        program = lower(integer, shipped_profile(target), "net")
        named = {layer.name for layer in list_layers(smaller)}
        assert named <= {layer.name for layer in program.layers}
        assert [out.shape for out in integer(*batch)] == [out.shape for out in run(smaller, 4)]


def test_a_dropped_block_leaves_what_it_was_added_to():
    graph, space = derived("resnet20")
    for depth in (2, 1, 0):
        shallow = specialise(graph, space, Architecture({"depth:layer1.0.conv1": depth}))
        names = {layer.name for layer in list_layers(shallow)}
        assert {f"layer1.{block}.conv2" in names for block in range(depth)} <= {True}
        assert {f"layer1.{block}.conv2" in names for block in range(depth, 3)} == {False}
        model = ZOO["resnet20"]()[0]
        model.layer1 = model.layer1[:depth]
        image = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(shallow(image)[0], model(image), atol=1e-4)
        relus = [node for node in shallow.graph.nodes if node.target is aten.relu.default]
        assert len(relus) == 19 - 2 * (3 - depth)  # that after a dropped sum goes too


def test_smaller_widths_keep_some_of_what_greater_ones_keep():
    graph, space = derived("resnet20")
    name = "layer3.0.conv1"
    kept = []
    for width in (64, 48, 32):
        candidate = Architecture({f"width:{name}": width, "depth:layer3.1.conv1": 0})
        weight = specialise(graph, space, candidate).get_submodule(name).weight
        rows = [int((graph.get_submodule(name).weight == row).all((1, 2, 3)).nonzero()) for row in weight]
        assert rows == sorted(rows)  # in their order
        kept.append(set(rows))
    assert [len(rows) for rows in kept] == [64, 48, 32]
    assert kept[0] > kept[1] > kept[2]
    norms = graph.get_submodule(name).weight.abs().sum((1, 2, 3))
    assert kept[2] == set(norms.argsort(descending=True)[:32].tolist())


def test_kernel_transforms_are_used():
    graph, space = derived("resnet18")
    candidate = Architecture({"kernel:conv1": 5})
    plain = specialise(graph, space, candidate).get_submodule("conv1").weight
    twice = (
        specialise(graph, space, candidate, {"conv1": {5: 2 * torch.eye(25)}}).get_submodule("conv1").weight
    )
    assert torch.equal(twice, 2 * plain)
    assert torch.equal(plain, graph.get_submodule("conv1").weight[..., 1:-1, 1:-1])


@pytest.mark.parametrize(
    "knob", ["width:layer2.0.conv2", "depth:layer1.0.conv1", "kernel:conv1", "resolution:x"]
)
def test_a_space_of_another_network_is_refused(knob):
    _, space = derived("resnet18")
    graph, _ = derived("autoencoder") if knob.startswith("resolution") else derived("resnet20")
    with pytest.raises(ConfigurationError, match="another network"):
        specialise(graph, space, Architecture({knob: least(space).choices[knob]}))


def test_what_is_not_in_the_space_is_refused():
    graph, space = derived("resnet20")
    with pytest.raises(ConfigurationError, match="may be 16, 8"):
        specialise(graph, space, Architecture({"width:conv1": 12}))


# A random network: each step takes values by their place among those of the same size of image.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "wide", "depthwise", "relu", "sum", "cat", "half", "pad", "block"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    min_size=3,
    max_size=14,
)


def random_network(steps: list[tuple[str, int, int]]) -> GraphModule:
    """A canonical graph of one image, made of these steps, with a mean and a linear layer at its end."""
    root, graph, mode = nn.Module(), fx.Graph(), FakeTensorMode()
    image = graph.placeholder("image")
    with mode:
        image.meta["val"] = torch.empty(1, 4, 8, 8)
    graph.output((image,))
    gm = GraphModule(root, graph)
    end = next(reversed(gm.graph.nodes))
    image = next(iter(gm.graph.nodes))
    numbers = iter(range(1000))
    torch.manual_seed(0)  # the steps alone make the network

    def layer(module: nn.Module, x: fx.Node) -> fx.Node:
        return emit_module(end, f"layer{next(numbers)}", module, x)

    def block(x: fx.Node) -> fx.Node:
        count = shape_of(x)[1]
        inner = emit(end, aten.relu.default, layer(nn.Conv2d(count, 8, 1), x))
        return emit(end, aten.add.Tensor, layer(nn.Conv2d(8, count, 3, padding=1), inner), x)

    def joined(x: fx.Node, y: fx.Node) -> fx.Node:
        return emit(end, aten.add.Tensor, x, y) if shape_of(x) == shape_of(y) else x

    values = [layer(nn.Conv2d(4, 8, 3, padding=1), image)]
    make: dict[str, Callable[[fx.Node, fx.Node, int], fx.Node]] = {
        "conv": lambda x, y, n: layer(nn.Conv2d(n, 8, 5, padding=2), x),
        "wide": lambda x, y, n: layer(nn.Conv2d(n, 16, 1), x),
        "depthwise": lambda x, y, n: layer(nn.Conv2d(n, n, 3, padding=1, groups=n), x),
        "relu": lambda x, y, n: emit(end, aten.relu.default, x),
        "sum": lambda x, y, n: joined(x, y),
        "cat": lambda x, y, n: emit(end, aten.cat.default, [x, y], 1) if n < 24 else x,
        "half": lambda x, y, n: emit(end, aten.slice.Tensor, x, 1, n // 2, n, 1) if n > 4 else x,
        "pad": lambda x, y, n: (
            emit(end, aten.constant_pad_nd.default, x, [0, 0, 0, 0, 2, 6], 0.0) if n < 24 else x
        ),
        "block": lambda x, y, n: block(x),
    }
    for kind, first, second in steps:
        x, y = values[-1 - first % len(values)], values[-1 - second % len(values)]
        values.append(make[kind](x, y, shape_of(x)[1]))
    mean = emit(end, aten.mean.dim, values[-1], [2, 3], False)
    end.args = ((layer(nn.Linear(shape_of(mean)[1], 3), mean),),)
    return finish(gm)


@settings(max_examples=15)
@given(STEPS, st.randoms(use_true_random=False))
def test_random_networks(steps, random):
    graph = random_network(steps)
    space = derive_architecture_space(graph, Elasticity(channel_multiple=2))
    same = specialise(graph, space, space.identity)
    assert all(torch.equal(*pair) for pair in zip(run(graph), run(same), strict=True))
    for knob in space.knobs:
        value = random.choice(knob.choices[1:])
        assert_specialises(graph, space, Architecture({knob.name: value}))
    candidate = Architecture({knob.name: random.choice(knob.choices) for knob in space.knobs})
    assert_is_what_it_says(specialise(graph, space, candidate))
    if any(knob.kind is KnobKind.WIDTH for knob in space.knobs):
        assert_channels_of_zeros_are_nothing(graph, space)
