"""Fine-tuning: what it gains, that it repeats, that it goes on where it was interrupted, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset, Subset, TensorDataset

from haqnas.errors import ConfigurationError
from haqnas.rewrite.integerize import integerize
from haqnas.train import fine_tune as module
from haqnas.train import loop
from haqnas.train.fine_tune import Trained, fine_tune
from haqnas.train.recipe import Recipe
from tests.rewrite.pipeline import canonical_graph, signal_to_noise_db
from tests.train.lessons import Lesson, Noisy, digits_lesson

GAIN = 0.05  # of accuracy, at least, that training must add to what calibration gives at few bits


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return digits_lesson()


def tune(
    lesson: Lesson,
    bits: str,
    recipe: Recipe,
    data: Dataset[Any] | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> Trained:
    train_data = lesson.train_data if data is None else data
    fake = lesson.calibrated(bits)
    return fine_tune(fake, lesson.canonical, train_data, lesson.batches, recipe, seed, checkpoint)


def state_of(graph: GraphModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in graph.state_dict().items()}


def same(first: GraphModule, second: GraphModule) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("bits", ["w2a4", "w3a3"])
def test_training_gains_accuracy_that_few_bits_cost(lesson: Lesson, bits: str) -> None:
    before = lesson.accuracy(integerize(lesson.calibrated(bits)))
    trained = tune(lesson, bits, Recipe(epochs=4, batch_size=32))
    after = lesson.accuracy(integerize(trained.graph))
    assert after > before + GAIN
    assert after > 0.87
    assert (trained.num_steps, round(trained.epochs)) == (4 * (1200 // 32), 4)


def test_integer_graph_equals_the_trained_simulation(lesson: Lesson) -> None:
    graph = tune(lesson, "w4a8", Recipe(epochs=1)).graph
    with torch.no_grad():
        simulated, integer = graph(lesson.test_images)[0], integerize(graph)(lesson.test_images)[0]
    assert signal_to_noise_db(simulated, integer) > 35
    assert (simulated.argmax(1) == integer.argmax(1)).float().mean() > 0.99


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_same_seed_gives_the_same_bits_and_another_seed_others(lesson: Lesson, optimizer: Any) -> None:
    recipe = Recipe(epochs=0.5, optimizer=optimizer, augmentation=("crop",))
    first, second, other = (
        tune(lesson, "w3a4", recipe, Noisy(lesson.train_data), seed=seed).graph for seed in (3, 3, 4)
    )
    assert same(first, second)
    assert not same(first, other)


def test_interrupted_training_gives_the_bits_of_an_uninterrupted_one(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=1.5, batch_size=100)
    data = Noisy(lesson.train_data)
    whole = tune(lesson, "w3a4", recipe, data)
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0.0)
    real, counted = module._step, []

    def stop_at_step_14(*arguments: Any) -> float:
        counted.append(1)
        if len(counted) == 14:  # in the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_step", stop_at_step_14)
    with pytest.raises(KeyboardInterrupt):
        tune(lesson, "w3a4", recipe, data, tmp_path / "training.pt")
    counted.clear()
    monkeypatch.setattr(module, "_step", lambda *arguments: counted.append(1) or real(*arguments))
    resumed = tune(lesson, "w3a4", recipe, data, tmp_path / "training.pt")
    assert len(counted) == 18 - 13
    assert resumed.num_steps == whole.num_steps == 18
    assert same(whole.graph, resumed.graph)


def test_time_ends_training(lesson: Lesson) -> None:
    trained = tune(lesson, "w4a4", Recipe(epochs=1000, time_s=1.0))
    assert 0 < trained.num_steps < 1000 * 9
    assert 1.0 <= trained.time_s < 10.0


def test_inputs_and_generators_stay_as_they_were(lesson: Lesson) -> None:
    fake = lesson.calibrated("w4a4")
    before, canonical = state_of(fake), state_of(lesson.canonical)
    generator = torch.get_rng_state()
    fine_tune(fake, lesson.canonical, Noisy(lesson.train_data), lesson.batches, Recipe(epochs=0.2), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in fake.state_dict().items())
    assert all(torch.equal(value, canonical[name]) for name, value in lesson.canonical.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_a_network_without_classes_learns_its_teacher() -> None:
    torch.manual_seed(0)
    canonical = canonical_graph(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6)), (8,))
    x = torch.randn(400, 8)
    data, batches = TensorDataset(x, torch.randn(400, 3)), [(x[:64],)]
    fake = Lesson(canonical, data, x, x, batches).calibrated("w3a4")
    graph = fine_tune(fake, canonical, data, batches, Recipe(epochs=20, batch_size=20), seed=0).graph
    with torch.no_grad():
        wanted = canonical(x)[0]
        before, after = (signal_to_noise_db(wanted, g(x)[0]) for g in (fake, graph))
    assert after > before + 1


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_way_out(lesson: Lesson) -> None:
    images, labels = lesson.train_data.tensors
    poisoned = TensorDataset(
        torch.where(torch.arange(len(images))[:, None, None, None] == 7, torch.nan, images), labels
    )
    with pytest.raises(
        ConfigurationError, match=r"finite, but it was nan in training step \d+; give a lower --qat-lr"
    ):
        tune(lesson, "w4a4", Recipe(epochs=1), poisoned)


def test_a_damaged_checkpoint_is_an_error_that_names_the_way_out(lesson: Lesson, tmp_path: Path) -> None:
    (tmp_path / "training.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigurationError, match=r"damaged.*--fresh"):
        tune(lesson, "w4a4", Recipe(epochs=1), checkpoint=tmp_path / "training.pt")


def test_a_single_sample_is_no_training_data(lesson: Lesson) -> None:
    with pytest.raises(ConfigurationError, match="at least 2 samples in train_data, but got 1"):
        tune(lesson, "w4a4", Recipe(epochs=1), Subset(lesson.train_data, [0]))
