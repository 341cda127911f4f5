"""The example model files keep the contract of a model file and their stated accuracy."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
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


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # it takes the data from its neighbour
    monkeypatch.setenv("HAQNAS_WIDE", str(tmp_path / "wide.pt"))
    return load("cifar10_wide")


def test_wide_says_how_to_train_it(wide):
    with pytest.raises(RuntimeError, match=r"wide\.pt is not there: train it with `python cifar10_wide\.py`"):
        wide.build_model()


def test_wide_crops_and_mirrors_keep_images_whole(wide):
    """A ramp from left to right rises or falls by one a pixel, but for the mirrored border."""
    ramp = torch.arange(32, dtype=torch.uint8).expand(64, 3, 32, 32)
    steps = wide._augment(ramp)[:, :, :, 8:24].short().diff(dim=3).flatten(1)
    assert bool((steps == steps[:, :1]).all())
    assert set(steps[:, 0].tolist()) == {1, -1}


def test_wide_training_goes_on_where_it_was_stopped(wide, monkeypatch, tmp_path, capsys):
    generator = np.random.default_rng(0)
    count, path = wide.BATCH_SIZE, tmp_path / "wide.pt"
    pixels = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    images = wide.CifarImages(pixels, generator.integers(0, 10, count, np.uint8))
    for name in ("train_data", "val_data"):
        monkeypatch.setattr(wide, name, lambda: images)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wide, "_train_epoch", functools.partial(_once, wide._train_epoch, stop, []))
        with pytest.raises(KeyboardInterrupt):
            wide.train(path, 2)
    wide.train(path, 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2", str(path)]
    assert top1(wide.build_model(), images, 8) >= 0
    with pytest.raises(SystemExit, match="begun with --epochs 2"):
        wide.train(path, 3)


def _once(first, then, calls, *arguments):
    """`first` at the first call, `then` at the second."""
    calls.append(arguments)
    return (first if len(calls) == 1 else then)(*arguments)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("builder", "top1_of_500"), [("build_model", 0.89), ("resnet56", 0.91)])
def test_cifar10_weights_load_and_classify(builder, top1_of_500):
    module = load("cifar10_resnet")
    (image,) = module.example_inputs()
    assert image.shape == (1, *module.val_data()[0][0].shape)
    assert len(module.val_data()) == 10_000
    assert top1(getattr(module, builder)(), module.val_data(), 500) >= top1_of_500
