"""Policies survive their JSON form, and a wrong one says what is wrong."""

import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haqnas.errors import ConfigurationError
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS, QuantSpec
from haqnas.space.policy import Policy

SPECS = st.builds(QuantSpec, st.sampled_from(WEIGHT_BITS), st.sampled_from(ACT_BITS))


@given(SPECS, st.dictionaries(st.text(), SPECS, max_size=8))
def test_json_round_trip(default, layers):
    policy = Policy(default, MappingProxyType(layers))
    again = Policy.from_json(policy.to_json())
    assert again == policy
    assert again.to_json() == policy.to_json()
    assert all(again.spec_of(name) == spec for name, spec in layers.items())
    assert again.spec_of("a layer that nobody named " + "x" * 99) == default


@given(SPECS)
def test_names_of_bits_round_trip(spec):
    assert QuantSpec.parse(str(spec)) == spec


@given(st.integers(-2, 12), st.integers(-2, 12))
def test_bits_out_of_range_are_refused(weight_bits, act_bits):
    if weight_bits in WEIGHT_BITS and act_bits in ACT_BITS:
        assert QuantSpec(weight_bits, act_bits).act_bits == act_bits
    else:
        with pytest.raises(ConfigurationError, match="bits must be"):
            QuantSpec(weight_bits, act_bits)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "must be an object"),
        ({"schema": 2}, '"schema": 1'),
        ({"schema": 1, "layer": {}}, "has the keys"),
        ({"schema": 1, "default": 8}, "must be text such as w4a8"),
        ({"schema": 1, "layers": {"conv1": "w9a8"}}, "layer 'conv1': weight bits must be 1 to 8"),
        ({"schema": 1, "default": "int8"}, "bits are written as"),
    ],
)
def test_wrong_documents_are_refused(document, words):
    with pytest.raises(ConfigurationError, match=words):
        Policy.from_json(json.dumps(document), "policy.json")


def test_a_layer_that_the_model_lacks_is_named():
    policy = Policy(QuantSpec(8, 8), MappingProxyType({"conv9": QuantSpec(4, 8)}))
    with pytest.raises(ConfigurationError, match=r"conv9.*its layers are conv1, fc"):
        policy.check_layers(["conv1", "fc"])
