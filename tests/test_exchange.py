"""Tables of other searches, checked by readers that build keys and sums as those searches do."""

import contextlib
import io
import itertools
import math
import random
import zipfile

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.nn import functional

from haqnas.devices.kernel_times import KernelTime, kernels_of
from haqnas.errors import ConfigurationError
from haqnas.exchange import from_haq, module_order, ofa_text, read_haq, to_haq, to_ofa
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.pricing import SUM, Conversion, Cost, LayerPrices, NetworkModel, layer_prices
from haqnas.quantspec import QuantSpec
from haqnas.space.policy import Policy
from tests.measured import PROFILES, canonical_network, uniform_programs
from tests.zoo import ZOO
from tests.zoo.mobile import GatedBlock, InvertedResidual, SqueezeExcite

SPECS = [QuantSpec.parse(text) for text in ("w8a8", "w4a8", "w4a4", "w2a4")]
MODEL = NetworkModel(1.1, 2e-8, 0.0, 4)


def made_up_prices(canonical, seed=5):
    """Every layer and every other node costs something, and so do conversions to 4 bits."""
    rng = random.Random(seed)
    names = [layer.name for layer in list_layers(canonical)]
    layers = {name: {spec: Cost(rng.uniform(1e-6, 1e-3), 2) for spec in SPECS} for name in names}
    conversions = [
        Conversion(Cost(rng.uniform(1e-6, 1e-5), 1), frozenset(names[i : i + 2]), 4) for i in (1, 6)
    ]
    others = [node.name for node in canonical.graph.nodes if node.op == "call_function"]
    return LayerPrices(
        layers, tuple(conversions), {name: Cost(rng.uniform(1e-6, 1e-4), 1) for name in others}
    )


def uniform_price(prices, spec):
    return prices.price(Policy(spec), MODEL)


@pytest.fixture(scope="module")
def mobilenet():
    model, inputs = ZOO["mobilenet_v2"]()
    return model, normalise(trace(model, inputs)), inputs[0].shape[-1]


# HAQ


def haq_cost(table, strategy):
    """As HAQ sums a strategy of [weight bits, activation bits] by layer."""
    return sum(table[i, bits[0] - 1, bits[1] - 1] for i, bits in enumerate(strategy))


def test_haq_sums_layers_in_nanoseconds(mobilenet):
    model, canonical, _ = mobilenet
    prices = made_up_prices(canonical)
    order = module_order(model, prices)
    assert len(order) == 53
    table = to_haq(prices, MODEL, order, "ns")
    assert table.latencies.shape == (53, 8, 8)
    assert table.latencies.dtype == np.int64
    rng = random.Random(3)
    policy = Policy(QuantSpec(8, 8), {name: rng.choice(SPECS) for name in order})
    strategy = [(policy.spec_of(name).weight_bits, policy.spec_of(name).act_bits) for name in order]
    expected_s = sum(MODEL.total(prices.layers[name][policy.spec_of(name)]) for name in order)
    assert haq_cost(table.latencies, strategy) == pytest.approx(expected_s * 1e9, abs=53)


def test_share_says_how_much_of_the_network_the_table_is(mobilenet):
    model, canonical, _ = mobilenet
    prices = made_up_prices(canonical)
    table = to_haq(prices, MODEL, module_order(model, prices), "ns")
    glue_s = MODEL.total(sum(prices.glue.values(), Cost()))
    assert table.share == pytest.approx(1 - glue_s / uniform_price(prices, QuantSpec(8, 8)))
    assert table.share < 0.99
    assert table.left_out == ()
    without_first = to_haq(prices, MODEL, module_order(model, prices)[1:], "ns")
    assert without_first.left_out == ("features.0.0",)
    assert without_first.share < table.share


def test_bits_that_were_not_measured_cost_what_wider_ones_do():
    costs = {QuantSpec(8, 8): 8.0, QuantSpec(4, 8): 5.0, QuantSpec(8, 4): 4.0, QuantSpec(2, 4): 1.0}
    prices = LayerPrices({"a": {spec: Cost(amount) for spec, amount in costs.items()}}, (), {})
    table = to_haq(prices, SUM, ["a"], "instructions")
    measured = {(spec.weight_bits, spec.act_bits): amount for spec, amount in costs.items()}
    for bits in itertools.product(range(1, 9), repeat=2):
        place = 0, bits[0] - 1, bits[1] - 1
        wider = [cost for (w, a), cost in measured.items() if w >= bits[0] and a >= bits[1]]
        assert table.latencies[place] == measured.get(bits, min(wider))
        assert table.is_filled[place] == (bits not in measured)
    assert table.latencies[0, 0, 0] == 1  # w1a1 runs as w2a4
    assert table.latencies[0, 3, 5] == 5  # w4a6 as w4a8
    # HAQ gives the first layer -1 activation bits, and so reads its 7-bit column: the network's input has 8.
    assert haq_cost(table.latencies, [(8, -1)]) == haq_cost(table.latencies, [(8, 8)])


def test_measured_bits_stay_as_they_are_even_where_wider_ones_are_faster():
    prices = LayerPrices({"a": {QuantSpec(8, 8): Cost(3.0), QuantSpec(4, 8): Cost(7.0)}}, (), {})
    table = to_haq(prices, SUM, ["a"], "instructions")
    assert table.latencies[0, 3, 7] == 7
    assert table.latencies[0, 2, 7] == 3  # w3a8 runs as w8a8


def test_rows_follow_modules_and_not_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.second(self.first(x))

    model = Backwards()
    canonical = normalise(trace(model.eval(), (torch.zeros(1, 3, 8, 8),)))
    assert [layer.name for layer in list_layers(canonical)] == ["first", "second"]
    assert module_order(model, made_up_prices(canonical)) == ("second", "first")


@pytest.mark.parametrize(
    ("prices", "order", "words"),
    [
        ({"a": {QuantSpec(8, 8): Cost(1.0)}}, ["b"], "no price of the layers b"),
        ({"a": {QuantSpec(8, 8): Cost(1.0)}}, ["a", "a"], "a is named twice"),
        ({"a": {QuantSpec(4, 8): Cost(1.0)}}, ["a"], "at w8a8, but a has none"),
        ({"a": {QuantSpec(8, 8): Cost(math.nan)}}, ["a"], "8 weight bits and 8 activation bits is nan"),
        (
            {"a": {QuantSpec(8, 8): Cost(1.0), QuantSpec(4, 4): Cost(-1.0)}},
            ["a"],
            "4 weight bits and 4 activation bits is -1",
        ),
        ({"a": {QuantSpec(8, 8): Cost(1e10)}}, ["a"], r"2\*\*63"),
    ],
)
def test_what_haq_cannot_hold_is_refused(prices, order, words):
    with pytest.raises(ConfigurationError, match=words):
        to_haq(LayerPrices(prices, (), {}), SUM, order, "ns")


LATENCIES_NS = st.floats(0, 1e12)
SPEC_SETS = st.sets(st.builds(QuantSpec, st.integers(1, 8), st.integers(2, 8)), max_size=8)


@given(
    data=st.data(), names=st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=5), specs=SPEC_SETS
)
def test_prices_come_back_from_a_table(data, names, specs):
    layers = {
        name: {spec: Cost(data.draw(LATENCIES_NS) * 1e-9, 1) for spec in (*specs, QuantSpec(8, 8))}
        for name in names
    }
    table = to_haq(LayerPrices(layers, (), {}), SUM, names, "ns")
    back = from_haq(table.latencies, names, 1e-9)
    assert list(back.layers) == names
    for name, by_spec in layers.items():
        for spec, cost in by_spec.items():
            assert back.layers[name][spec].amount == pytest.approx(cost.amount, rel=1e-12, abs=0.51e-9)


@given(
    table=arrays.arrays(
        np.int64, st.tuples(st.integers(0, 4), st.just(8), st.just(8)), elements=st.integers(0, 2**50)
    )
)
def test_tables_come_back_from_prices(table):
    names = [str(row) for row in range(len(table))]
    back = to_haq(from_haq(table, names, 1.0), SUM, names, "instructions")
    np.testing.assert_array_equal(back.latencies[:, :, 1:], table[:, :, 1:])
    assert not back.is_filled[:, :, 1:].any()
    assert back.is_filled[:, :, 0].all()  # 1-bit activations are no choice here


@pytest.mark.parametrize(
    ("table", "names", "words"),
    [
        (np.zeros((2, 8)), ["a", "b"], r"shape \(layers, 8, 8\)"),
        (np.zeros((1, 8, 7)), ["a"], r"this one has \(1, 8, 7\)"),
        (np.zeros((1, 1, 8, 8)), ["a"], "shape"),
        (np.zeros((53, 8, 8)), ["a", "b"], "53 layers and the network 2"),
        (np.zeros((2, 8, 8)), ["a", "a"], "a is named twice"),
        (np.full((1, 8, 8), np.nan), ["a"], "is nan"),
        (np.full((1, 8, 8), np.inf), ["a"], "is inf"),
        (np.full((1, 8, 8), -1), ["a"], r"layer 0 \(a\) at 1 weight bits and 1 activation bits is -1"),
        (np.zeros((1, 8, 8), np.complex128), ["a"], "complex128"),
        (np.zeros((1, 8, 8), "U3"), ["a"], "<U3"),
        (np.zeros((1, 8, 8), np.bool_), ["a"], "bool"),
        (np.zeros((1, 8, 8), "M8[s]"), ["a"], "datetime64"),
    ],
)
def test_what_is_no_table_is_refused(table, names, words):
    with pytest.raises(ConfigurationError, match=words):
        from_haq(table, names, 1.0)


@pytest.mark.parametrize("worth", [0.0, -1.0, math.nan, math.inf])
def test_entries_are_worth_something(worth):
    with pytest.raises(ConfigurationError, match="worth a number above 0"):
        from_haq(np.zeros((1, 8, 8)), ["a"], worth)


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


TABLE = npy(np.arange(128).reshape(2, 8, 8))


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("table.npy", TABLE)
    return file.getvalue()


def test_a_file_is_read(tmp_path):
    path = tmp_path / "table.npy"
    path.write_bytes(TABLE)
    prices = from_haq(read_haq(path), ["a", "b"], 1e-9)
    assert prices.layers["b"][QuantSpec(1, 2)] == Cost(65e-9, 1)


@pytest.mark.parametrize(
    "content",
    [
        npy(np.array([[["a", 1]]], object), allow_pickle=True),
        zipped(),
        b"",
        b"latency: 1",
        TABLE[:-1],
        TABLE.replace(b"(2, 8, 8)", b"(2**40, 8, 8)"[:9]),
        TABLE.replace(b"(2, 8, 8), }  ", b"(999999999,), }"[:14]),
    ],
    ids=["pickle", "npz", "empty", "text", "short", "expression", "huge"],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, content):
    path = tmp_path / "table.npy"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"table\.npy is not a table of HAQ"):
        read_haq(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "missing.npy"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_haq(path)


@given(st.data())
def test_damaged_files_end_in_an_error_or_an_array(tmp_path_factory, data):
    damaged = bytearray(TABLE)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, 127))
        damaged[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    path.write_bytes(damaged)
    with contextlib.suppress(ConfigurationError):  # anything else fails
        assert isinstance(read_haq(path), np.ndarray)


# ProxylessNAS and OFA


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
