"""The rules of bits and shared scales of docs/design.md."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haqnas.quantspec import QuantSpec
from haqnas.rewrite.kinds import Kind
from haqnas.rewrite.plan import integer_kinds, plan_quantizers
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import canonical_graph


class Fork(nn.Module):
    """One value read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.left(x) + self.right(x)


def policy(default: str, **layers: str) -> Policy:
    return Policy(QuantSpec.parse(default), {name: QuantSpec.parse(bits) for name, bits in layers.items()})


def bits_of(graph: torch.fx.GraphModule, chosen: Policy) -> dict[str, int]:
    return {point.node.name: point.bits for point in plan_quantizers(graph, chosen).points}


def test_value_has_the_bits_that_its_layers_agree_on() -> None:
    graph = canonical_graph(Fork(), (3, 4, 4))
    bits = bits_of(graph, policy("w8a8", left="w8a4", right="w2a4"))
    assert bits["relu"] == 4
    assert bits["x"] == 8


def test_value_that_layers_read_with_different_bits_is_stored_with_8() -> None:
    graph = canonical_graph(Fork(), (3, 4, 4))
    plan = plan_quantizers(graph, policy("w8a6", left="w8a4"))
    assert {point.node.name: point.bits for point in plan.points}["relu"] == 8
    assert sorted((str(layer.target), bits) for layer, bits in plan.narrowed) == [("left", 4), ("right", 6)]


def test_addends_have_8_bits() -> None:
    graph = canonical_graph(Fork(), (3, 4, 4))
    layers = {str(n.target): n.name for n in graph.graph.nodes if n.op == "call_module"}
    bits = bits_of(graph, policy("w4a4"))
    assert bits[layers["left"]] == bits[layers["right"]] == 8


def test_bits_are_seen_through_operators_that_only_move_data() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))

    graph = canonical_graph(Pooled(), (3, 4, 4))
    assert bits_of(graph, policy("w8a8", linear="w8a3"))["relu"] == 3


def test_value_before_a_table_has_8_bits_and_after_it_those_of_the_reader() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1))
    graph = canonical_graph(module, (3, 4, 4))
    bits = bits_of(graph, policy("w4a4"))
    assert list(bits.values()) == [4, 8, 4]  # input, convolution, sigmoid


def test_concatenated_values_share_one_scale() -> None:
    class Concatenate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat((F.relu(self.a(x)), self.b(x)), 1))

    plan = plan_quantizers(canonical_graph(Concatenate(), (3, 4, 4)), policy("w4a4"))
    groups = [point.group for point in plan.points if point.node.name != "x"]
    assert len(groups) == 2
    assert len(set(groups)) == 1


def test_residual_stream_that_layer_norms_read_stays_float() -> None:
    class PreNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.linear = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return F.layer_norm(x + self.linear(self.norm(x)), (8,))

    kinds = integer_kinds(canonical_graph(PreNorm(), (5, 6)))
    adds = [kind for node, kind in kinds.items() if node.target is torch.ops.aten.add.Tensor]
    assert adds == [Kind.FLOAT]


def test_clamp_that_shares_its_input_is_a_table() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(F.relu(x)) + x

    kinds = integer_kinds(canonical_graph(Shared(), (3, 4, 4)))
    assert [kind for node, kind in kinds.items() if node.name == "relu"] == [Kind.TABLE]
