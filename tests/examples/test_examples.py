"""The example model files keep the contract of a model file and their stated accuracy."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def top1(model: torch.nn.Module, dataset, count: int) -> float:
    pairs = [dataset[i] for i in range(count)]
    with torch.no_grad():
        predicted = model(torch.stack([image for image, _ in pairs])).argmax(1)
    return float((predicted == torch.tensor([int(label) for _, label in pairs])).float().mean())


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return load("digits")


@pytest.fixture(scope="module")
def digits_model(digits: ModuleType) -> torch.nn.Module:
    return digits.build_model()


def test_digits_reads_unseen_images(digits, digits_model):
    assert top1(digits_model, digits.val_data(), 500) >= 0.97


def test_digits_test_images_are_not_trained_on(digits):
    train, val = digits.train_data(), digits.val_data()
    assert len(train) == 1297
    assert len(val) == 500
    assert not set(train.indices) & set(val.indices)
    assert set(digits.calibration_data().indices) <= set(train.indices)


def test_digits_training_is_repeatable_and_leaves_no_trace(digits, digits_model):
    before = torch.get_rng_state(), torch.get_num_threads()
    again = digits.build_model().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in digits_model.state_dict().items())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()


def test_digits_example_input_is_one_image(digits):
    (image,) = digits.example_inputs()
    assert image.shape == (1, *digits.val_data()[0][0].shape)


@pytest.mark.parametrize("hidden", [None, "no-such-folder"])
def test_cifar10_says_what_it_needs_without_data(hidden, monkeypatch, tmp_path):
    monkeypatch.delenv("HAQNAS_DATA", raising=False)
    if hidden is not None:
        monkeypatch.setenv("HAQNAS_DATA", str(tmp_path / hidden))
    with pytest.raises(RuntimeError, match=r"HAQNAS_DATA.*examples/README\.md"):
        load("cifar10_resnet").build_model()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("builder", "top1_of_500"), [("build_model", 0.89), ("resnet56", 0.91)])
def test_cifar10_weights_load_and_classify(builder, top1_of_500):
    module = load("cifar10_resnet")
    (image,) = module.example_inputs()
    assert image.shape == (1, *module.val_data()[0][0].shape)
    assert len(module.val_data()) == 10_000
    assert top1(getattr(module, builder)(), module.val_data(), 500) >= top1_of_500
