"""Canonical forms: each row is a model, its input, and the operators that must be left, in order."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

from haqnas.errors import HaqnasError
from haqnas.graph.location import node_place
from haqnas.graph.normalise import NORMALIZE_PASSES, normalise
from haqnas.graph.trace import trace
from tests.graph.batching import runs_batched
from tests.zoo import ZOO

IMAGE = (4, 8, 8)
SIGNAL = (4, 12)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def channels_after(x):
    return torch.stack([x, x + 1], 2)


def operators(graph):
    """Short names of the graph's calls: `relu` for aten.relu.default, the class for modules."""
    names = []
    for node in graph.graph.nodes:
        if node.op == "call_function":
            names.append(str(node.target).removeprefix("aten.").removesuffix(".default"))
        elif node.op == "call_module":
            names.append(type(graph.get_submodule(node.target)).__name__)
    return names


def canonical(model, *shape, batch_sizes=(1, 3)):
    """The canonical graph of a model, after checking its values at some batch sizes."""
    model = model if isinstance(model, nn.Module) else Function(model)
    generator = torch.Generator().manual_seed(0)
    model.eval()
    example = 3 * torch.randn(1, *shape, generator=generator)
    graph = normalise(trace(model, (example,)))
    for size in batch_sizes:
        batch = 3 * torch.randn(size, *shape, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(graph(batch)[0], model(batch), rtol=1e-4, atol=1e-5)
    return graph


FORMS = [
    # activations
    (nn.ReLU6(), IMAGE, ["hardtanh"]),
    (nn.ReLU(inplace=True), IMAGE, ["relu"]),
    (nn.Hardtanh(-2, 2), IMAGE, ["hardtanh"]),
    (lambda x: x.clamp(0, 6), IMAGE, ["hardtanh"]),
    (lambda x: torch.clamp(x, min=-1, max=1), IMAGE, ["hardtanh"]),
    (lambda x: x.clamp(min=0), IMAGE, ["relu"]),
    (lambda x: x.clamp_min(0), IMAGE, ["relu"]),
    (lambda x: torch.maximum(x, torch.zeros(1)), IMAGE, ["relu"]),
    (nn.Threshold(0, 0), IMAGE, ["relu"]),
    (nn.PReLU(), IMAGE, ["leaky_relu"]),
    (nn.LeakyReLU(0.2, inplace=True), IMAGE, ["leaky_relu"]),
    (nn.ELU(0.5), IMAGE, ["elu"]),
    (nn.Hardswish(inplace=True), IMAGE, ["hardswish"]),
    (nn.Hardsigmoid(), IMAGE, ["hardsigmoid"]),
    (nn.SiLU(), IMAGE, ["silu"]),
    (nn.GELU(), IMAGE, ["gelu"]),
    (nn.GELU(approximate="tanh"), IMAGE, ["gelu"]),
    (nn.Sigmoid(), IMAGE, ["sigmoid"]),
    (nn.Tanh(), IMAGE, ["tanh"]),
    (lambda x: x * torch.sigmoid(x), IMAGE, ["silu"]),
    (lambda x: torch.sigmoid(x).mul_(x), IMAGE, ["silu"]),
    (lambda x: functional.relu6(x + 3) / 6, IMAGE, ["hardsigmoid"]),
    (lambda x: x * (functional.relu6(x + 3) / 6), IMAGE, ["hardswish"]),
    (lambda x: x * functional.relu6(x + 3) / 6, IMAGE, ["hardswish"]),
    (lambda x: x * functional.hardsigmoid(x), IMAGE, ["hardswish"]),
    (
        lambda x: x * functional.relu6(x + 3) / 5,
        IMAGE,
        ["add.Tensor", "hardtanh", "mul.Tensor", "mul.Tensor"],
    ),
    # arithmetic
    (lambda x: x / 4, IMAGE, ["mul.Tensor"]),
    (lambda x: 2 * x, IMAGE, ["mul.Tensor"]),
    (lambda x: -x, IMAGE, ["mul.Tensor"]),
    (lambda x: x - 1.5, IMAGE, ["add.Tensor"]),
    (lambda x: 1 - x, IMAGE, ["mul.Tensor", "add.Tensor"]),
    (lambda x: x - x.relu(), IMAGE, ["relu", "sub.Tensor"]),
    (lambda x: torch.add(x, x.relu(), alpha=2), IMAGE, ["relu", "mul.Tensor", "add.Tensor"]),
    (lambda x: torch.sub(x, x.relu(), alpha=2), IMAGE, ["relu", "mul.Tensor", "sub.Tensor"]),
    (lambda x: torch.tensor(2.0) * x, IMAGE, ["mul.Tensor"]),
    (lambda x: x / torch.tensor([0.5]), IMAGE, ["mul.Tensor"]),
    (lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x), IMAGE, ["mean.dim", "mul.Tensor"]),
    # pools
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE, ["max_pool2d"]),
    (nn.MaxPool2d((2, 1)), IMAGE, ["max_pool2d"]),
    (nn.MaxPool1d(3, 2, 1), SIGNAL, ["reshape", "max_pool2d", "reshape"]),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE, ["avg_pool2d"]),
    (nn.AvgPool1d(2), SIGNAL, ["reshape", "avg_pool2d", "reshape"]),
    (nn.AdaptiveAvgPool2d(1), IMAGE, ["adaptive_avg_pool2d"]),
    (nn.AdaptiveAvgPool2d((3, None)), IMAGE, ["adaptive_avg_pool2d"]),
    (nn.AdaptiveAvgPool2d(8), IMAGE, []),
    (nn.AdaptiveAvgPool1d(3), SIGNAL, ["reshape", "adaptive_avg_pool2d", "reshape"]),
    (lambda x: x.mean([-1, -2]), IMAGE, ["mean.dim"]),
    (lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True), IMAGE, ["mean.dim", "mean.dim"]),
    (lambda x: x.amax((2, 3)), IMAGE, ["max_pool2d", "reshape"]),
    # data movement
    (nn.Flatten(), IMAGE, ["reshape"]),
    (lambda x: x.view(x.size(0), -1).unsqueeze(1).squeeze(1).unflatten(1, (4, 64)), IMAGE, ["reshape"]),
    (lambda x: x.flatten(2).transpose(1, 2), IMAGE, ["reshape", "permute"]),
    (lambda x: x.transpose(1, 2).transpose(1, 2) + 1, IMAGE, ["add.Tensor"]),
    (lambda x: x.permute(0, 2, 3, 1).contiguous(), IMAGE, ["permute"]),
    (lambda x: x.movedim(1, -1), IMAGE, ["permute"]),
    (lambda x: x[:, 1], IMAGE, ["slice.Tensor", "reshape"]),
    (lambda x: x[:, :, ::2, 1:-1], IMAGE, ["slice.Tensor", "slice.Tensor"]),
    (lambda x: x.narrow(1, 1, 2), IMAGE, ["slice.Tensor"]),
    (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), IMAGE, ["slice.Tensor", "slice.Tensor", "cat"]),
    (lambda x: x.split([1, 3], 1)[1], IMAGE, ["slice.Tensor"]),
    (lambda x: torch.cat(x.unbind(1), 1), IMAGE, ["slice.Tensor", "reshape"] * 4 + ["cat"]),
    (channels_after, IMAGE, ["add.Tensor", "reshape", "reshape", "cat"]),
    (lambda x: x.repeat(1, 2, 1, 1), IMAGE, ["cat"]),
    (lambda x: x.roll(3, 2), IMAGE, ["slice.Tensor", "slice.Tensor", "cat"]),
    (nn.PixelShuffle(2), IMAGE, ["reshape", "permute", "reshape"]),
    (nn.PixelUnshuffle(2), IMAGE, ["reshape", "permute", "reshape"]),
    (nn.ChannelShuffle(2), IMAGE, ["reshape", "permute", "reshape"]),
    (nn.ZeroPad2d((1, 2, 0, 1)), IMAGE, ["constant_pad_nd"]),
    (lambda x: functional.pad(x, (0, 0, -1, 2), value=1.0), IMAGE, ["slice.Tensor", "constant_pad_nd"]),
    (nn.ReflectionPad1d(2), SIGNAL, ["slice.Tensor"] * 4 + ["cat"]),
    (nn.ReplicationPad1d(1), SIGNAL, ["slice.Tensor"] * 2 + ["cat"]),
    (nn.CircularPad1d(1), SIGNAL, ["slice.Tensor"] * 2 + ["cat"]),
    (
        lambda x: (
            torch.cat([torch.zeros(1, 2, 8, 8), x], 1)
            if x.shape[0] == 1
            else functional.pad(x, (0, 0, 0, 0, 2, 0))
        ),
        IMAGE,
        ["constant_pad_nd"],
    ),
    # resizing
    (nn.Upsample(scale_factor=2), IMAGE, ["upsample_nearest2d"]),
    (nn.Upsample((5, 11)), IMAGE, ["upsample_nearest2d"]),
    (nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE, ["upsample_bilinear2d"]),
    (nn.Upsample((11, 5), mode="bilinear", align_corners=True), IMAGE, ["upsample_bilinear2d"]),
    (nn.Upsample(scale_factor=1.3), IMAGE, ["upsample_nearest2d.vec"]),
    (nn.Upsample(scale_factor=3), SIGNAL, ["reshape", "upsample_nearest2d", "reshape"]),
    (nn.Upsample(7, mode="linear"), SIGNAL, ["reshape", "upsample_bilinear2d", "reshape"]),
    # nothing
    (
        nn.Sequential(nn.Dropout(), nn.Identity(), nn.Dropout2d(), nn.AlphaDropout(), nn.Tanh()),
        IMAGE,
        ["tanh"],
    ),
    (lambda x: x.float().to(torch.float32).detach().clone().contiguous().relu(), IMAGE, ["relu"]),
    # layers
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), IMAGE, ["Conv2d"]),
    (nn.Conv2d(4, 6, (2, 3), padding="same"), IMAGE, ["constant_pad_nd", "Conv2d"]),
    (nn.Conv2d(4, 6, 3, padding="valid"), IMAGE, ["Conv2d"]),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), IMAGE, ["Conv2d"]),
    (nn.Conv1d(4, 6, 3, stride=2), SIGNAL, ["Conv1d"]),
    (nn.Conv1d(4, 6, 4, padding="same"), SIGNAL, ["constant_pad_nd", "Conv1d"]),
    (
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        IMAGE,
        ["slice.Tensor", "slice.Tensor", "cat"] * 2 + ["Conv2d"],
    ),
    (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), IMAGE, ["ConvTranspose2d"]),
    (nn.ConvTranspose1d(4, 6, 3, 2, 1, dilation=2), SIGNAL, ["reshape", "ConvTranspose2d", "reshape"]),
    (nn.Linear(8, 3), IMAGE, ["Linear"]),
    (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGE, ["Conv2d"]),
    (nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6, affine=False)), SIGNAL, ["Conv1d"]),
    (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), IMAGE, ["ConvTranspose2d"]),
    (nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.BatchNorm1d(5)), IMAGE, ["reshape", "Linear"]),
    (nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(4)), SIGNAL, ["Linear", "Conv1d"]),
    (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), IMAGE, ["Conv2d", "relu"]),
    (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256)), IMAGE, ["reshape", "Conv1d", "reshape"]),
    (nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), IMAGE, ["Conv2d", "relu", "Conv2d"]),
    (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), IMAGE, ["Conv2d"]),
]


@pytest.mark.parametrize(("model", "shape", "expected"), FORMS, ids=range(len(FORMS)))
def test_canonical_form(model, shape, expected):
    if isinstance(model, nn.Module):
        randomise_statistics(model)
    assert operators(canonical(model, *shape)) == expected


def randomise_statistics(model):
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.2, 3.0, generator=generator)
            if module.affine:
                module.weight.data.normal_(generator=generator)
                module.bias.data.normal_(generator=generator)


def test_arguments_are_explicit():
    pools = canonical(nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LeakyReLU(), nn.Hardtanh()), *IMAGE)
    calls = [node.args[1:] for node in pools.graph.nodes if node.op == "call_function"]
    assert calls == [
        ([2, 2], [2, 2], [0, 0], [1, 1], False),
        ([2, 2], [2, 2], [0, 0], False, True, None),
        (0.01,),
        (-1.0, 1.0),
    ]


def test_layers_keep_the_users_names():
    inner = nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)))
    graph = canonical(
        nn.Sequential(OrderedDict(stem=inner, act=nn.ReLU(), norm=nn.BatchNorm2d(4), head=nn.Linear(8, 2))),
        *IMAGE,
    )
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["stem.conv", "norm", "head"]


def test_shared_layer_with_two_batch_norms_becomes_two_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            randomise_statistics(self)

        def forward(self, x):
            return self.second(self.conv(self.first(self.conv(x))))

    graph = canonical(Shared(), *IMAGE)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["conv_1", "conv"]


def test_two_layers_with_one_weight_and_two_biases_stay_apart():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    graph = canonical(Tied(), *SIGNAL)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["a", "b"]


def test_layer_output_with_a_second_reader_keeps_its_own_value():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            randomise_statistics(self)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    assert operators(canonical(Branch(), *IMAGE)) == ["Conv2d", "Conv2d", "add.Tensor"]


def test_attention_of_torch_keeps_its_projections_as_layers():
    # this module moves the batch to dimension 1, so its graph runs on one input at a time
    encoder = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    graph = canonical(encoder, *SIGNAL, batch_sizes=(1,))
    assert not runs_batched(graph, (torch.zeros(1, *SIGNAL),))
    names = [n.target for n in graph.graph.nodes if n.op == "call_module"]
    assert names == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]


def test_matrix_product_with_constant_is_a_linear_layer():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(12, 5))

        def forward(self, x):
            return x @ self.matrix

    graph = canonical(Product(), *SIGNAL)
    assert [(n.op, n.target) for n in graph.graph.nodes][1] == ("call_module", "matrix")


def test_constant_subgraph_is_computed_once():
    graph = canonical(lambda x: x * (torch.arange(8.0) * 2 + 1).sqrt(), *IMAGE)
    assert operators(graph) == ["mul.Tensor"]


def test_source_line_of_forward_is_kept():
    graph = canonical(lambda x: x.clamp(0, 6), *IMAGE)
    (node,) = (node for node in graph.graph.nodes if node.op == "call_function")
    place = node_place(node)
    assert place is not None
    assert place.startswith(f"{__file__}:")
    assert place.endswith("return self.function(x)")


@pytest.fixture(scope="module")
def traced():
    return trace(*ZOO["mobilenet_v3_small"]())


@pytest.mark.parametrize("position", range(len(NORMALIZE_PASSES)))
def test_passes_leave_their_input_unchanged(traced, position):
    before = normalise(traced, NORMALIZE_PASSES[:position])
    code, state = before.code, {name: value.clone() for name, value in before.state_dict().items()}
    metas = [dict(node.meta) for node in before.graph.nodes]
    after = NORMALIZE_PASSES[position](before)
    assert after is not before
    assert before.code == code
    before.recompile()
    assert before.code == code
    assert [dict(node.meta).keys() for node in before.graph.nodes] == [meta.keys() for meta in metas]
    for name, value in before.state_dict().items():
        assert torch.equal(value, state[name])


def test_failing_pass_is_named():
    def break_graph(gm):
        raise ValueError("no such node")

    graph = trace(Function(torch.relu), (torch.zeros(1, 3),))
    with pytest.raises(
        HaqnasError, match=r"pass break_graph failed \(passes before it: fold_constants\).*no such"
    ):
        normalise(graph, (NORMALIZE_PASSES[0], break_graph))
