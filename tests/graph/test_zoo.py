import pytest
import torch
from torch import nn

from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from tests.graph.batching import runs_batched
from tests.zoo import ZOO, resnet50

CANONICAL_MODULES = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
# Layers that torch counts in the module itself; batch norms that stand alone become depthwise convolutions.
EXTRA_LAYERS = {"densenet_block": 6}


@pytest.mark.parametrize("name", ZOO)
def test_canonical_graph_computes_what_the_model_computes(name):
    model, inputs = ZOO[name]()
    canonical = normalise(trace(model, inputs))
    batch = tuple(torch.randn(3, *x.shape[1:], generator=torch.Generator().manual_seed(7)) for x in inputs)
    with torch.no_grad():
        expected = model(*batch)
        (actual,) = canonical(*batch)
    assert runs_batched(canonical, inputs)
    assert expected.std() > 1e-3, "the output must say something about the input"
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()

    for node in canonical.graph.nodes:
        assert node.op == "output" or "val" in node.meta
        if node.op == "call_module":
            assert isinstance(canonical.get_submodule(node.target), CANONICAL_MODULES)
        elif node.op == "call_function":
            assert isinstance(node.target, torch._ops.OpOverload)
            assert not node.target._schema.is_mutable
    assert "batch_norm" not in canonical.code
    assert "dropout" not in canonical.code

    named = {path for path, module in model.named_modules() if isinstance(module, CANONICAL_MODULES)}
    layers = list_layers(canonical)
    assert named <= {layer.name for layer in layers}
    assert len(layers) == len(named) + EXTRA_LAYERS.get(name, 0)


def test_resnet50_has_the_known_cost():
    model = resnet50(classes=1000).eval()
    layers = list_layers(normalise(trace(model, (torch.zeros(1, 3, 224, 224),))))
    assert sum(layer.macs for layer in layers) == 4_089_184_256  # 4.09 G, as published
    assert sum(layer.num_weights for layer in layers) == 25_502_912
    assert layers[0].name == "conv1"
    assert layers[0].out_shape == (1, 64, 112, 112)
    assert layers[-1].name == "fc"
