"""HAQ's tables, checked by a reader that builds sums as that search does."""

import contextlib
import io
import itertools
import math
import random
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from haqnas.errors import ConfigurationError
from haqnas.exchange import from_haq, module_order, read_haq, to_haq
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.pricing import SUM, Cost, LayerPrices
from haqnas.quantspec import QuantSpec
from haqnas.space.policy import Policy
from tests.made_up_prices import MODEL, SPECS, made_up_prices, uniform_price
from tests.zoo import ZOO


@pytest.fixture(scope="module")
def mobilenet():
    model, inputs = ZOO["mobilenet_v2"]()
    return model, normalise(trace(model, inputs)), inputs[0].shape[-1]


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
