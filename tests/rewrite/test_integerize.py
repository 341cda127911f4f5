"""The integer graph as a whole: residuals, concatenations, islands, outputs, constants, metadata."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haqnas.errors import UnsupportedModelError
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.integerize import integerize
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import run_stages, signal_to_noise_db


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.second(F.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


def test_residual_network_is_integer_with_float_outputs() -> None:
    stages = run_stages(Residual(), (3, 8, 8))
    wanted, _, given = stages.outputs()
    assert given.dtype == torch.float32
    assert signal_to_noise_db(wanted, given) > 30
    assert stages.operators() == [
        "haqnas.quantize",
        "haqnas.qconv2d",
        "haqnas.qconv2d",
        "haqnas.qconv2d",
        "haqnas.qadd",
        "haqnas.qadaptive_avg_pool2d",
        "aten.reshape",
        "haqnas.qlinear_dequantize",
    ]


def test_source_graph_is_unchanged_and_integerizing_again_gives_the_same() -> None:
    stages = run_stages(Residual(), (3, 8, 8))
    code = stages.fake.code
    again = integerize(stages.fake)
    assert stages.fake.code == code
    assert torch.equal(again(*stages.inputs)[0], stages.integer(*stages.inputs)[0])


def test_every_node_knows_its_shape_and_layer() -> None:
    stages = run_stages(Residual(), (3, 8, 8))
    nodes = [node for node in stages.integer.graph.nodes if node.op != "output"]
    assert all(isinstance(node.meta["val"], Tensor) for node in nodes)
    layers = [n.meta["layer"] for n in nodes if n.op == "call_function" and "qconv" in str(n.target)]
    assert layers == ["stem", "first", "second"]
    assert len(stages.integer.meta["output_steps"]) == 1


def test_concatenation_needs_no_change_of_scale() -> None:
    class Fire(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.squeeze, self.left, self.right = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 6, 1),
                nn.Conv2d(4, 6, 3, padding=1),
            )
            self.head = nn.Conv2d(12, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.squeeze(x))
            return self.head(torch.cat((F.relu(self.left(x)), 3 * F.relu(self.right(x))), 1))

    stages = run_stages(Fire(), (3, 8, 8))
    wanted, _, given = stages.outputs()
    assert "aten.cat" in stages.operators()
    assert stages.operators().count("haqnas.qtable") == 1  # the multiplication by 3
    assert signal_to_noise_db(wanted, given) > 30


def test_reader_with_fewer_bits_reads_through_a_table() -> None:
    policy = Policy(QuantSpec(8, 8), {"first": QuantSpec(4, 4)})
    stages = run_stages(Residual(), (3, 8, 8), bits=policy)
    (table,) = (n for n in stages.integer.graph.nodes if "qtable" in str(n.target))
    (reader,) = table.users
    assert reader.meta["layer"] == "first"
    assert list(reader.args[8:10]) == [4, 4]
    assert int(stages.integer.get_buffer(str(table.args[1].target)).max()) <= 15


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.last = nn.LayerNorm(8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
        return self.last(x + self.down(F.gelu(self.up(self.norm(x)))))


def test_what_is_not_supported_is_a_float_island_between_integer_layers() -> None:
    stages = run_stages(Attention(), (6, 8))
    wanted, fake, given = stages.outputs()
    operators = stages.operators()
    assert {"aten.softmax", "aten.layer_norm", "aten.matmul"} <= set(operators)
    assert operators.count("haqnas.qlinear_dequantize") == 3  # qkv, out, down
    assert operators.count("haqnas.qtable") == 1  # gelu stays between integers
    assert signal_to_noise_db(wanted, given) > 28
    assert signal_to_noise_db(fake, given) > 35


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = F.relu(self.a(x))
            return x, x + self.b(y)

    stages = run_stages(Two(), (3, 4, 4), (2, 4, 4))
    wanted, given = stages.canonical(*stages.inputs), stages.integer(*stages.inputs)
    assert len(given) == len(stages.integer.meta["output_steps"]) == 2
    for index, step in enumerate(stages.integer.meta["output_steps"]):
        assert (wanted[index] - given[index]).abs().max() < 4 * step


def test_layer_used_twice_keeps_one_set_of_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.conv(F.relu(self.conv(x)))))

    stages = run_stages(Twice(), (4, 6, 6), bits="w4a8")
    _, fake, given = stages.outputs()
    weights = [n.args[1] for n in stages.integer.graph.nodes if str(n.target) == "haqnas.qconv2d.default"]
    assert len(weights) == 2
    assert weights[0] is weights[1]
    assert signal_to_noise_db(fake, given) > 30


def test_activation_that_ends_the_network_is_a_table() -> None:
    stages = run_stages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), (3, 8, 8))
    assert stages.operators() == ["haqnas.quantize", "haqnas.qconv2d", "haqnas.qtable", "haqnas.dequantize"]


def test_accumulator_overflow_is_an_error_that_names_the_layer() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        module[1].weight.fill_(1e-6)
        module[1].bias.fill_(1e6)
    with pytest.raises(UnsupportedModelError, match="accumulator of 1 "):
        run_stages(module, (4,))


def test_dead_activations_do_not_harm() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        module[0].bias.fill_(-1e3)
    wanted, _, given = run_stages(module, (4,)).outputs()
    assert torch.allclose(wanted, given, atol=1e-3)
