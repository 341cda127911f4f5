"""All networks of the zoo, all bit widths between them, and the accuracy of ResNet-20 on CIFAR-10."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.quantspec import QuantSpec, act_range, weight_range
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.serialize import load_graph, save_graph
from haqnas.space.policy import Policy
from haqnas.train.score import score_top1
from tests.rewrite.pipeline import signal_to_noise_db
from tests.zoo import ZOO, resnet20

BITS = ["w1a2", "w2a5", "w3a7", "w4a3", "w5a8", "w6a4", "w7a6", "w8a2"]


@pytest.mark.parametrize(("name", "bits"), [(name, BITS[i % len(BITS)]) for i, name in enumerate(ZOO)])
def test_network_quantizes_at_any_bits(name: str, bits: str) -> None:
    model, example = ZOO[name]()
    spec = QuantSpec.parse(bits)
    inputs = tuple(torch.randn(4, *part.shape[1:]) for part in example)
    graph = integerize(calibrate(quantize(normalise(trace(model, example)), Policy(spec)), [inputs]))
    outputs = graph(*inputs)
    assert all(torch.isfinite(output).all() for output in outputs)
    layers = [n for n in graph.graph.nodes if any(k in str(n.target) for k in ("qconv", "qlinear"))]
    low, high = weight_range(spec.weight_bits)
    for layer in layers:
        weight = graph.get_buffer(layer.args[1].target)
        assert low <= int(weight.min()) <= int(weight.max()) <= high
        assert spec.weight_bits in layer.args
    activations = _values_read_by(graph, inputs, layers)
    assert max(int(value.max()) for value in activations) <= act_range(spec.act_bits)[1]
    assert torch.equal(load_graph(*save_graph(graph))(*inputs)[0], outputs[0])


def _values_read_by(graph, inputs, layers):
    class Recorder(torch.fx.Interpreter):
        def run_node(self, n):
            if n in layers:
                found.append(self.env[n.args[0]])
            return super().run_node(n)

    found: list[torch.Tensor] = []
    with torch.no_grad():
        Recorder(graph).run(*inputs)
    return found


@pytest.mark.parametrize(
    "name", ["squeezenet", "densenet_block", "ds_cnn", "conv1d", "dcgan_generator", "small_vit"]
)
def test_network_with_8_bits_is_close_to_float(name: str) -> None:
    model, example = ZOO[name]()
    inputs = tuple(torch.randn(16, *part.shape[1:]) for part in example)
    canonical = normalise(trace(model, example))
    graph = integerize(calibrate(quantize(canonical, Policy(QuantSpec(8, 8))), [inputs]))
    with torch.no_grad():
        assert signal_to_noise_db(canonical(*inputs)[0], graph(*inputs)[0]) > 25


@pytest.mark.data
@pytest.mark.slow
def test_resnet20_keeps_its_accuracy_on_cifar10(data_folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("cifar_data", data_folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

    def read(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = loader.cifar10(split)
        scaled = (images[:count].astype(np.float32) / 255 - mean) / deviation
        return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(
            labels[:count].astype(np.int64)
        )

    model = resnet20()
    state = torch.load(data_folder / "weights/resnet20-12fca82f.th", map_location="cpu", weights_only=True)[
        "state_dict"
    ]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    train, _ = read("train", 512)
    canonical = normalise(trace(model.eval(), (train[:1],)))
    test = TensorDataset(*read("test", 10_000))
    graph = integerize(
        calibrate(quantize(canonical, Policy(QuantSpec(8, 8))), [(part,) for part in train.split(128)])
    )
    assert score_top1(graph, test, 250) >= 0.915
