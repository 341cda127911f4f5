"""The module that is trained computes what the calibrated graph does, and goes back without a change of integers."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize, read_act_quant, read_integer_weight
from haqnas.rewrite.trainable import TrainedLayer, TrainedQuantizer, has_batch_norm, make_trainable, restore
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import canonical_graph, signal_to_noise_db


class Net(nn.Module):
    """With and without batch norm, a residual, a layer of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body, self.body_bn = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up_bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)
        for norm in (self.bn, self.body_bn, self.up_bn):
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.body_bn(self.body(x)))
        x = F.relu6(self.up_bn(self.up(x)))
        return self.head(x.mean((2, 3)))


def stages(bits: str) -> tuple[GraphModule, GraphModule, list[tuple[Tensor, ...]]]:
    canonical = canonical_graph(Net(), (3, 8, 8))
    batches = [(torch.randn(16, 3, 8, 8),) for _ in range(3)]
    fake = calibrate(quantize(canonical, Policy(QuantSpec.parse(bits))), batches, is_corrected=False)
    return canonical, fake, batches


def test_integer_weights_survive_both_ways() -> None:
    canonical, fake, batches = stages("w4a8")
    restored = restore(make_trainable(fake, canonical, batches).eval(), fake, batches)
    for name in ("stem", "body", "up", "head"):
        before, after = (read_integer_weight(graph.get_submodule(name)) for graph in (fake, restored))
        assert torch.equal(before.values, after.values), name
    for name, module in fake.named_modules():
        if name.endswith("quantizer"):
            kept, given = read_act_quant(module), read_act_quant(restored.get_submodule(name))
            assert kept.scale == pytest.approx(given.scale)
            assert kept.zero_point == given.zero_point


def test_trained_module_equals_the_restored_graph_and_the_integer_one() -> None:
    canonical, fake, batches = stages("w8a8")
    trainable = make_trainable(fake, canonical, batches).eval()
    restored = restore(trainable, fake, batches)
    (x,) = batches[0]
    with torch.no_grad():
        trained, simulated, integer = (graph(x)[0] for graph in (trainable, restored, integerize(restored)))
    assert signal_to_noise_db(trained, simulated) > 35
    assert signal_to_noise_db(simulated, integer) > 35


def test_batch_norm_stands_where_one_was_folded() -> None:
    canonical, fake, batches = stages("w4a4")
    trainable = make_trainable(fake, canonical, batches)
    layers = {name: m for name, m in trainable.named_modules() if isinstance(m, TrainedLayer)}
    assert {name: layer.norm is not None for name, layer in layers.items()} == {
        "stem": True,
        "body": True,
        "up": True,
        "head": False,
    }
    assert has_batch_norm(trainable)


def test_batch_norm_gives_outputs_the_mean_and_deviation_of_the_float_network() -> None:
    canonical, fake, batches = stages("w2a8")
    trainable = make_trainable(fake, canonical, batches).eval()
    with torch.no_grad():
        wanted = torch.cat([canonical.get_submodule("stem")(x) for (x,) in batches])
        given = torch.cat([trainable.get_submodule("stem")(x) for (x,) in batches])
    assert torch.allclose(wanted.mean((0, 2, 3)), given.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(wanted.std((0, 2, 3)), given.std((0, 2, 3)), rtol=0.02)


def test_a_negative_factor_of_batch_norm_turns_the_signs_of_its_channel() -> None:
    canonical, fake, batches = stages("w4a8")
    trainable = make_trainable(fake, canonical, batches).eval()
    layer = trainable.get_submodule("stem")
    assert isinstance(layer, TrainedLayer)
    assert layer.norm is not None
    with torch.no_grad():
        layer.norm.weight[2] *= -1
    restored = restore(trainable, fake, batches)
    before, after = (read_integer_weight(graph.get_submodule("stem")) for graph in (fake, restored))
    assert torch.equal(before.values[2], -after.values[2])
    assert (after.scale > 0).all()
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(layer(x), restored.get_submodule("stem")(x), atol=0.02)


def test_relu_before_a_quantizer_is_its_clamp() -> None:
    canonical, fake, batches = stages("w8a8")
    assert sum("relu.default" in str(node.target) for node in fake.graph.nodes) == 2
    trainable = make_trainable(fake, canonical, batches)
    assert not any("relu.default" in str(node.target) for node in trainable.graph.nodes)


def test_inputs_are_unchanged() -> None:
    canonical, fake, batches = stages("w4a4")
    before = [
        {name: value.clone() for name, value in graph.state_dict().items()} for graph in (canonical, fake)
    ]
    trainable = make_trainable(fake, canonical, batches)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.add_(1.0)
    for graph, state in zip((canonical, fake), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())


def test_every_parameter_learns() -> None:
    canonical, fake, batches = stages("w3a4")
    trainable = make_trainable(fake, canonical, batches).train()
    trainable(*batches[0])[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable.parameters())
    assert sum(isinstance(m, TrainedQuantizer) for m in trainable.modules()) > 3
