"""Training shared weights: what it gains, that it repeats, resumes and ends in time, and that supernets are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.utils.data import Subset, TensorDataset

from haqnas.errors import ConfigurationError
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.elastic import cut_network, read_structure, run_cut
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.shared import measure_statistics, share_weights
from haqnas.space.architecture import Architecture, ArchitectureSpace
from haqnas.space.elastic import derive_architecture_space
from haqnas.space.policy import Policy
from haqnas.train import loop
from haqnas.train import supernet as module
from haqnas.train.loss import loss_of
from haqnas.train.sandwich import draw
from haqnas.train.supernet import Lesson, Supernet, add_gradients, resize_images, train_supernet
from haqnas.train.supernet_file import load_supernet, save_supernet
from haqnas.train.supernet_recipe import SupernetRecipe
from tests.rewrite.pipeline import canonical_graph
from tests.train.lessons import Noisy, digits_lesson

UNTRAINED = SupernetRecipe(time_s=0)


class Residual(nn.Module):
    """Two blocks over 16 channels, for digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(1, 16, 5, padding=2, bias=False), nn.BatchNorm2d(16)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(4))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        for block in (0, 2):
            inner = F.relu(self.norms[block](self.convs[block](x)))
            x = F.relu(x + self.norms[block + 1](self.convs[block + 1](inner)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> tuple[GraphModule, ArchitectureSpace]:
    """Trained in a second; all kinds of knobs but resolutions, at which 8x8 images lose their digits."""
    data = digits_lesson().train_data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Residual()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(6):
            for batch in torch.randperm(len(data)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(data.tensors[0][batch]), data.tensors[1][batch]).backward()
                optimizer.step()
        canonical = canonical_graph(model, (1, 8, 8))
    space = derive_architecture_space(canonical)
    return canonical, ArchitectureSpace(tuple(knob for knob in space.knobs if knob.kind != "resolution"))


def train(network: tuple[GraphModule, ArchitectureSpace], recipe: SupernetRecipe, **options: Any) -> Supernet:
    lesson = digits_lesson()
    settings = {"train_data": lesson.train_data, "seed": 0} | options
    return train_supernet(*network, batches=lesson.batches, recipe=recipe, **settings)


def accuracies(supernet: Supernet, candidates: Sequence[Architecture]) -> list[float]:
    lesson = digits_lesson()
    return [lesson.accuracy(supernet.cut(candidate, lesson.batches)) for candidate in candidates]


def smallest(space: ArchitectureSpace) -> Architecture:
    return Architecture({knob.name: knob.choices[-1] for knob in space.knobs})


def same(first: Supernet, second: Supernet) -> bool:
    a, b = first.shared.state_dict(), second.shared.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_training_makes_small_networks_good(network: tuple[GraphModule, ArchitectureSpace]) -> None:
    _, space = network
    assert {knob.kind for knob in space.knobs} == {"kernel", "depth", "width"}
    drawn = [draw(space, 9, number) for number in range(3)]
    before = accuracies(train(network, UNTRAINED), [smallest(space), *drawn])
    trained = train(network, SupernetRecipe(epochs=4, batch_size=32, learning_rate=0.1))
    after = accuracies(trained, [smallest(space), *drawn])
    assert trained.training.num_steps == 4 * (1200 // 32)
    assert after[0] > before[0] + 0.1  # one convolution of 8 channels
    assert sum(after[1:]) / 3 > sum(before[1:]) / 3 + 0.1
    assert accuracies(trained, [space.identity])[0] > 0.9


def test_a_network_that_was_cut_out_goes_through_the_stages(
    network: tuple[GraphModule, ArchitectureSpace],
) -> None:
    lesson = digits_lesson()
    supernet = train(network, SupernetRecipe(epochs=2, batch_size=32, learning_rate=0.1))
    graph = supernet.cut(smallest(supernet.space), lesson.batches)
    integer = integerize(calibrate(quantize(graph, Policy(QuantSpec.parse("w8a8"))), lesson.batches))
    assert lesson.accuracy(integer) == pytest.approx(lesson.accuracy(graph), abs=0.02)


def test_gradients_of_a_step_are_the_sum_of_those_of_its_networks(
    network: tuple[GraphModule, ArchitectureSpace],
) -> None:
    canonical, space = network
    structure, lesson = read_structure(canonical, space), digits_lesson()
    shared = share_weights(canonical, space, measure_statistics(canonical, lesson.batches))
    (images,), labels = lesson.batches[0], lesson.train_data.tensors[1][:64]
    recipe = SupernetRecipe(epochs=1)
    with torch.no_grad():
        wanted = canonical(images)
    candidates = [space.identity, smallest(space), draw(space, 0, 0), draw(space, 0, 1)]

    def gradients(run: Any) -> dict[str, Tensor]:
        shared.zero_grad()
        run()
        return {
            name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
            for name, value in shared.named_parameters()
        }

    def alone(candidate: Architecture, goal: Sequence[Tensor]) -> tuple[Tensor, ...]:
        outputs = run_cut(shared, cut_network(structure, candidate), (images,))
        loss_of(
            outputs, goal, labels, distillation=recipe.distillation, temperature=recipe.temperature
        ).backward()
        return tuple(part.detach() for part in outputs)

    step = Lesson((images,), labels, wanted, recipe, None)
    together = gradients(lambda: add_gradients(structure, shared, candidates, step, True))
    largest: list[Tensor] = []
    parts = [gradients(lambda: largest.extend(alone(space.identity, wanted)))]
    parts += [
        gradients(lambda c=candidate: alone(c, largest)) for candidate in candidates[1:]
    ]  # in-place distillation
    for name, value in together.items():
        total = torch.stack([part[name] for part in parts]).sum(0)
        assert torch.allclose(value, total, atol=1e-5, rtol=1e-4), name
    assert any(part["convs.0.weight"].abs().sum() > 0 for part in parts[1:])
    taught = gradients(lambda: add_gradients(structure, shared, candidates[1:2], step, False))
    by_float = gradients(lambda: alone(candidates[1], wanted))
    assert all(torch.allclose(value, by_float[name], atol=1e-6) for name, value in taught.items())


def test_interrupted_training_gives_the_bits_of_an_uninterrupted_one(
    network: tuple[GraphModule, ArchitectureSpace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = SupernetRecipe(epochs=1.5, batch_size=100, augmentation=("crop",), largest_every=2)
    data, path = Noisy(digits_lesson().train_data), tmp_path / "supernet.pt"
    whole = train(network, recipe, train_data=data)
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0.0)
    real, counted = module._step, []

    def stop_at_step_14(*arguments: Any) -> float:
        counted.append(1)
        if len(counted) == 14:  # in the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_step", stop_at_step_14)
    with pytest.raises(KeyboardInterrupt):
        train(network, recipe, train_data=data, checkpoint=path)
    counted.clear()
    monkeypatch.setattr(module, "_step", lambda *arguments: counted.append(1) or real(*arguments))
    resumed = train(network, recipe, train_data=data, checkpoint=path)
    assert len(counted) == 18 - 13
    assert same(whole, resumed)
    with pytest.raises(ConfigurationError, match="another training"):
        train(network, recipe, train_data=data, seed=1, checkpoint=path)
    assert not same(whole, train(network, recipe, train_data=data, seed=1))


def test_time_ends_training_and_it_tells_of_itself(
    network: tuple[GraphModule, ArchitectureSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "NOTE_INTERVAL_S", 0.1)
    notes: list[str] = []
    trained = train(network, SupernetRecipe(epochs=1000, time_s=1.0), note=notes.append).training
    assert 0 < trained.num_steps < 1000 * 9
    assert 1.0 <= trained.time_s < 10.0
    assert len(notes) > 1
    assert "of 1000, loss" in notes[-1]


def test_without_time_nothing_is_trained(network: tuple[GraphModule, ArchitectureSpace]) -> None:
    canonical, _ = network
    supernet = train(network, UNTRAINED, train_data=None)
    assert supernet.training.num_steps == 0
    lesson = digits_lesson()
    images = lesson.test_images
    with torch.no_grad():
        found = supernet.cut(supernet.space.identity, lesson.batches)(images)[0].argmax(1)
    assert (found == canonical(images)[0].argmax(1)).float().mean() > 0.98


def test_a_space_of_one_network_can_be_trained(network: tuple[GraphModule, ArchitectureSpace]) -> None:
    canonical, _ = network
    supernet = train((canonical, ArchitectureSpace(())), SupernetRecipe(epochs=0.5))
    assert supernet.training.num_steps == 5
    assert accuracies(supernet, [Architecture({})])[0] > 0.9


def test_a_network_without_batch_norm_and_classes_learns_its_teacher() -> None:
    torch.manual_seed(0)
    canonical = canonical_graph(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6)), (8,))
    space = derive_architecture_space(canonical)
    x = torch.randn(400, 8)
    data = TensorDataset(x, torch.randn(400, 3))
    small = smallest(space)

    def error(recipe: SupernetRecipe) -> float:
        supernet = train_supernet(canonical, space, data, [], recipe, 0)
        with torch.no_grad():
            return float((supernet.cut(small, [])(x)[0] - canonical(x)[0]).square().mean())

    assert small.choices
    assert error(SupernetRecipe(epochs=10, batch_size=20)) < 0.5 * error(UNTRAINED)


def test_saved_and_loaded(network: tuple[GraphModule, ArchitectureSpace], tmp_path: Path) -> None:
    canonical, space = network
    supernet = train(network, SupernetRecipe(epochs=0.2))
    save_supernet(supernet, tmp_path / "supernet.npz")
    loaded = load_supernet(tmp_path / "supernet.npz", canonical)
    assert same(supernet, loaded)
    assert (loaded.space, loaded.training) == (space, supernet.training)
    candidate, lesson = draw(space, 0, 0), digits_lesson()
    first, second = (one.cut(candidate, lesson.batches).state_dict() for one in (supernet, loaded))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [file.name for file in tmp_path.iterdir()] == ["supernet.npz"]


def test_files_that_do_not_fit_are_refused(
    network: tuple[GraphModule, ArchitectureSpace], tmp_path: Path
) -> None:
    canonical, _ = network
    path = tmp_path / "supernet.npz"
    with pytest.raises(ConfigurationError, match="holds no supernet"):
        load_supernet(path, canonical)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigurationError, match="holds no supernet"):
        load_supernet(path, canonical)
    save_supernet(train(network, UNTRAINED), path)
    with pytest.raises(ConfigurationError, match="another network"):
        load_supernet(path, digits_lesson().canonical)


def test_images_are_made_smaller_for_lower_resolutions() -> None:
    canonical = digits_lesson().canonical
    space = derive_architecture_space(canonical)
    assert space.knobs[0].kind == "resolution"
    images = torch.rand(3, 1, 8, 8)
    (same_images,) = resize_images(space, space.identity, (images,))
    assert same_images is images
    (halved,) = resize_images(space, Architecture({space.knobs[0].name: 4}), (images,))
    assert halved.shape == (3, 1, 4, 4)
    assert torch.allclose(halved.mean(), images.mean(), atol=0.02)


def test_what_cannot_be_trained_is_refused(network: tuple[GraphModule, ArchitectureSpace]) -> None:
    data = digits_lesson().train_data
    with pytest.raises(ConfigurationError, match="needs training data"):
        train(network, SupernetRecipe(epochs=1), train_data=None)
    with pytest.raises(ConfigurationError, match="at least 2 samples in train_data, but got 1"):
        train(network, SupernetRecipe(epochs=1), train_data=Subset(data, [0]))
    poisoned = TensorDataset(torch.full_like(data.tensors[0], torch.nan), data.tensors[1])
    with pytest.raises(
        ConfigurationError, match=r"finite, but it was nan in step 1 of training shared weights"
    ):
        train(network, SupernetRecipe(epochs=1), train_data=poisoned)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "needs an end"),
        ({"epochs": 0}, r"--supernet-epochs \(epochs\) .* greater than 0"),
        ({"time_s": -1}, r"--supernet-time \(time_s\) .* at least 0"),
        ({"epochs": 1, "num_random": -1}, "num_random"),
        ({"epochs": 1, "largest_every": 0}, "largest_every"),
        ({"epochs": 1, "batch_size": 1}, "batch norm"),
        ({"epochs": 1, "augmentation": ("blur",)}, "made of flip, crop"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        SupernetRecipe(**settings)
