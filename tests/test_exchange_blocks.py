"""Tables of ProxylessNAS and OFA, checked by readers that build keys and sums as those searches do."""

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from haqnas.devices.kernel_times import KernelTime, kernels_of
from haqnas.errors import ConfigurationError
from haqnas.exchange import ofa_text, to_ofa
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.pricing import Cost, layer_prices
from haqnas.quantspec import QuantSpec
from tests.made_up_prices import MODEL, SPECS, made_up_prices, uniform_price
from tests.measured import PROFILES, canonical_network, uniform_programs
from tests.zoo import ZOO
from tests.zoo.mobile import GatedBlock, InvertedResidual, SqueezeExcite


@pytest.fixture(scope="module")
def mobilenet():
    model, inputs = ZOO["mobilenet_v2"]()
    return model, normalise(trace(model, inputs)), inputs[0].shape[-1]


class Lookup:
    """Sums entries as the estimators of ProxylessNAS and OFA do, by keys of shapes that they work out themselves."""

    def __init__(self, text):
        self.entries = yaml.safe_load(text)
        self.total = 0.0

    def add(self, kind, in_size, out_size, **fields):
        parts = [kind, "input:" + "x".join(map(str, in_size)), "output:" + "x".join(map(str, out_size))]
        key = "-".join(parts + [f"{name}:{value:d}" for name, value in fields.items()])
        self.total += self.entries[key]["mean"]


def shrunk(size, stride):
    return int((size - 1) / stride + 1)


def convs_of(module):
    return [inner for inner in module.modules() if isinstance(inner, nn.Conv2d)]


def proxyless_latency(text, model, size):
    """Of the zoo's MobileNetV2: stem, blocks, feature mix layer, all operations after that."""
    found = Lookup(text)
    stem, *blocks, last = model.features
    width = stem[0].out_channels
    found.add("Conv", (size, size, 3), (shrunk(size, 2), shrunk(size, 2), width))
    size = shrunk(size, 2)
    for block in blocks:
        assert isinstance(block, InvertedResidual)
        *_, depthwise, project = convs_of(block)
        after = shrunk(size, depthwise.stride[0])
        found.add(
            "expanded_conv",
            (size, size, width),
            (after, after, project.out_channels),
            expand=depthwise.in_channels // width,
            kernel=depthwise.kernel_size[0],
            stride=depthwise.stride[0],
            idskip=block.has_shortcut,
        )
        size, width = after, project.out_channels
    channels = last[0].out_channels
    found.add("Conv_1", (size, size, width), (size, size, channels))
    found.add("Logits", (size, size, channels), (model.classifier[-1].out_features,))
    return found.total


def v3_latency(text, size, stem, blocks, last, mix_width, classes):
    """As OFA walks a MobileNetV3: after the blocks a 1x1 convolution, a pool, a feature mix layer, the classifier."""
    found = Lookup(text)
    width = stem.out_channels
    found.add("Conv", (size, size, 3), (shrunk(size, 2), shrunk(size, 2), width))
    size = shrunk(size, 2)
    for block in blocks:
        excites = any(isinstance(inner, SqueezeExcite | OfaExcite) for inner in block.modules())
        depthwise = next(conv for conv in convs_of(block) if conv.groups > 1)
        project = convs_of(block)[-1]
        after = shrunk(size, depthwise.stride[0])
        found.add(
            "expanded_conv",
            (size, size, width),
            (after, after, project.out_channels),
            expand=depthwise.in_channels,
            kernel=depthwise.kernel_size[0],
            stride=depthwise.stride[0],
            idskip=block.has_shortcut,
            se=excites,
            hs=any(isinstance(inner, nn.Hardswish | OfaHardswish) for inner in block.modules()),
        )
        size, width = after, project.out_channels
    found.add("Conv_1", (size, size, width), (size, size, last.out_channels))
    found.add("AvgPool2D", (size, size, last.out_channels), (1, 1, last.out_channels))
    found.add("Conv_2", (1, 1, last.out_channels), (1, 1, mix_width))
    found.add("Logits", (1, 1, mix_width), (classes,))
    return found.total


def check_sum(table, price):
    """Of all keys by their number, and of what has none."""
    in_keys = sum(table.means[key] * table.counts[key] for key in table.means)
    assert in_keys + sum(table.unknown.values()) == pytest.approx(price)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_proxyless_finds_every_block_of_mobilenet_v2(mobilenet, spec):
    model, canonical, size = mobilenet
    prices = made_up_prices(canonical)
    table = to_ofa(canonical, prices, MODEL, spec, "ns")
    assert not table.unknown
    check_sum(table, uniform_price(prices, spec) * 1e3)
    assert sum(table.counts.values()) == 1 + 17 + 1 + 1
    assert len(table.counts) < 20  # some blocks are alike
    assert proxyless_latency(ofa_text([table]), model, size) == pytest.approx(
        uniform_price(prices, spec) * 1e3
    )


def test_a_block_is_its_layers_its_sum_and_its_conversions(mobilenet):
    _, canonical, _ = mobilenet
    prices = made_up_prices(canonical)
    table = to_ofa(canonical, prices, MODEL, QuantSpec(2, 4), "ns")
    names = [f"features.3.conv.{index}" for index in (0, 3, 6)]
    cost = sum((prices.layers[name][QuantSpec(2, 4)] for name in names), Cost())
    for node in ("hardtanh_default_4", "hardtanh_default_5", "add_tensor"):
        cost += prices.glue[node]
    for conversion in prices.conversions:
        if min(conversion.readers) in names:
            cost += conversion.cost
    key = "expanded_conv-input:16x16x8-output:16x16x8-expand:6-kernel:3-stride:1-idskip:1"
    assert table.means[key] == pytest.approx(MODEL.total(cost) * 1e3)
    assert sum(min(conversion.readers) in names for conversion in prices.conversions) == 1


def test_ofa_finds_every_block_of_mobilenet_v3():
    model, inputs = ZOO["mobilenet_v3_small"]()
    canonical = normalise(trace(model, inputs))
    prices = made_up_prices(canonical)
    table = to_ofa(canonical, prices, MODEL, QuantSpec(4, 4), "ns")
    assert not table.unknown
    price_ms = uniform_price(prices, QuantSpec(4, 4)) * 1e3
    check_sum(table, price_ms)
    blocks = [module for module in model.features if isinstance(module, GatedBlock)]
    stem, *_, last = (module for module in model.features if isinstance(module, nn.Conv2d))
    mix, classifier = (module for module in model.classifier if isinstance(module, nn.Linear))
    found_ms = v3_latency(
        ofa_text([table]), 64, stem, blocks, last, mix.out_features, classifier.out_features
    )
    assert found_ms == pytest.approx(price_ms)


class OfaHardswish(nn.Module):
    def forward(self, x):
        return x * functional.relu6(x + 3.0) / 6.0


class OfaExcite(nn.Module):
    """With the mean in two steps and a hard sigmoid written out."""

    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x):
        y = x.mean(3, keepdim=True).mean(2, keepdim=True)
        return x * (functional.relu6(self.expand(functional.relu(self.reduce(y))) + 3.0) / 6.0)


class OfaBlock(nn.Module):
    def __init__(self, in_channels, hidden, out_channels, stride, kernel):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            OfaHardswish(),
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            OfaHardswish(),
            OfaExcite(hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x):
        return self.layers(x) + x if self.has_shortcut else self.layers(x)


class OfaNet(nn.Module):
    """The end of OFA's MobileNetV3: the feature mix layer is a convolution of one pixel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.Sequential(OfaBlock(8, 20, 12, 2, 5), OfaBlock(12, 40, 12, 1, 7))
        self.last, self.mix = nn.Conv2d(12, 48, 1), nn.Conv2d(48, 64, 1, bias=False)
        self.activate, self.classifier = OfaHardswish(), nn.Linear(64, 10)

    def forward(self, x):
        x = self.activate(self.last(self.blocks(self.activate(self.stem(x)))))
        x = x.mean(3, keepdim=True).mean(2, keepdim=True)
        return self.classifier(torch.flatten(self.activate(self.mix(x)), 1))


def test_ofa_finds_blocks_that_are_written_as_its_own():
    model = OfaNet().eval()
    canonical = normalise(trace(model, (torch.randn(1, 3, 33, 33),)))
    prices = made_up_prices(canonical)
    table = to_ofa(canonical, prices, MODEL, QuantSpec(8, 8), "ns")
    assert not table.unknown
    found_ms = v3_latency(ofa_text([table]), 33, model.stem, model.blocks, model.last, 64, 10)
    assert found_ms == pytest.approx(uniform_price(prices, QuantSpec(8, 8)) * 1e3)


@pytest.mark.parametrize("network", ["mobilenet_v1", "efficientnet_b0", "resnet20", "autoencoder"])
def test_what_has_no_key_is_counted_and_told(network):
    canonical, _ = canonical_network(network)
    prices = made_up_prices(canonical)
    table = to_ofa(canonical, prices, MODEL, QuantSpec(4, 8), "ns")
    check_sum(table, uniform_price(prices, QuantSpec(4, 8)) * 1e3)
    assert not [key for key in table.means if key.startswith("expanded_conv")]
    text = ofa_text([table])
    comments = [line for line in text.splitlines() if line.startswith("#   ")]
    assert len(comments) == len(table.unknown) > 0
    for layer in list_layers(canonical)[1:]:
        assert f'#   "{layer.name}": ' in text
    assert set(yaml.safe_load(text)) == set(table.means)


def test_a_ratio_that_is_not_whole_has_no_key(mobilenet):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 2, 1)
            self.block = InvertedResidual(8, 16, 2, 1)
            self.block.conv = nn.Sequential(
                nn.Conv2d(8, 20, 1),
                nn.ReLU6(),
                nn.Conv2d(20, 20, 3, 2, 1, groups=20),
                nn.ReLU6(),
                nn.Conv2d(20, 16, 1),
            )

        def forward(self, x):
            return self.block(functional.relu(self.stem(x)))

    canonical = normalise(trace(Odd().eval(), (torch.randn(1, 3, 32, 32),)))
    table = to_ofa(canonical, made_up_prices(canonical), MODEL, QuantSpec(8, 8), "ns")
    assert set(table.means) == {"Conv-input:32x32x3-output:16x16x8"}
    assert {"block.conv.0", "block.conv.2", "block.conv.4"} <= set(table.unknown)


def test_costs_of_a_real_program_all_find_their_block(rng):
    canonical, inputs = canonical_network("mobilenet_v3_small")
    uniforms = uniform_programs(canonical, inputs, PROFILES["arm-cpu"], "w8a8", "w4a4")
    kernels = {kernel for uniform in uniforms for kernel in kernels_of(uniform.program)}
    times = {kernel: KernelTime(float(rng.uniform(1e-6, 1e-5)), 0.0, 1) for kernel in sorted(kernels)}
    prices = layer_prices(canonical, uniforms, times)
    assert prices.glue
    assert prices.conversions
    for uniform in uniforms:
        table = to_ofa(canonical, prices, MODEL, uniform.spec, "ns")
        assert not table.unknown
        check_sum(table, uniform_price(prices, uniform.spec) * 1e3)


def test_instructions_are_not_passed_off_as_milliseconds(mobilenet):
    _, canonical, _ = mobilenet
    prices = made_up_prices(canonical)
    with pytest.raises(ConfigurationError, match="instructions of an emulator"):
        to_ofa(canonical, prices, MODEL, QuantSpec(8, 8), "instructions")
    table = to_ofa(canonical, prices, MODEL, QuantSpec(8, 8), "instructions", accepts_instructions=True)
    check_sum(table, uniform_price(prices, QuantSpec(8, 8)))
    text = ofa_text([table])
    assert text.startswith("# instructions ")
    assert {entry["unit"] for entry in yaml.safe_load(text).values()} == {"instructions"}
    timed = yaml.safe_load(ofa_text([to_ofa(canonical, prices, MODEL, QuantSpec(8, 8), "ns")]))
    assert {entry["unit"] for entry in timed.values()} == {"ms"}


def test_bits_without_a_price_are_refused(mobilenet):
    _, canonical, _ = mobilenet
    with pytest.raises(
        ConfigurationError, match=r"features\.0\.0 at w6a6; there is at w8a8, w4a8, w4a4, w2a4"
    ):
        to_ofa(canonical, made_up_prices(canonical), MODEL, QuantSpec(6, 6), "ns")


def test_tables_of_several_networks_make_one_file(mobilenet):
    _, canonical, _ = mobilenet
    first, second = (
        to_ofa(canonical, made_up_prices(canonical, seed), MODEL, QuantSpec(8, 8), "ns") for seed in (1, 2)
    )
    other, _ = canonical_network("resnet20")
    third = to_ofa(other, made_up_prices(other), MODEL, QuantSpec(8, 8), "ns")
    entries = yaml.safe_load(ofa_text([first, second, third]))
    assert set(entries) == {*first.means, *third.means}
    for key in first.means:
        assert entries[key]["mean"] == pytest.approx((first.means[key] + second.means[key]) / 2)
        assert entries[key]["count"] == 2 * first.counts[key]
    narrow = to_ofa(canonical, made_up_prices(canonical), MODEL, QuantSpec(4, 4), "ns")
    with pytest.raises(ConfigurationError, match="ms at w4a4, ms at w8a8"):
        ofa_text([first, narrow])
    with pytest.raises(ConfigurationError, match="nothing"):
        ofa_text([])
