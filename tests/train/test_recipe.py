"""Recipes: the schedule, and values that are refused."""

import itertools
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from haqnas.errors import ConfigurationError
from haqnas.settings import Settings, recipe_of
from haqnas.train.augment import augment
from haqnas.train.batches import batches_from, read_batch, source_of
from haqnas.train.loss import Mixed
from haqnas.train.recipe import Recipe, learning_rate_factor


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [learning_rate_factor(progress / 100, 0.1) for progress in range(101)]
    assert 0 < factors[0] < 0.05
    assert factors[:11] == sorted(factors[:11])
    assert factors[10] == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs an end: give --qat-epochs, --qat-time"),
        ({"epochs": 0.0}, "--qat-epochs must be greater than 0, but got 0"),
        ({"time_s": -1.0}, "--qat-time must be greater than 0, but got -1"),
        ({"epochs": float("nan")}, "--qat-epochs must be greater than 0, but got nan"),
        ({"epochs": 1, "batch_size": 1}, "--qat-batch-size must be at least 2, but got 1"),
        ({"epochs": 1, "optimizer": "lion"}, "--qat-optimizer is one of sgd, adamw, but got 'lion'"),
        ({"epochs": 1, "learning_rate": 0.0}, "--qat-lr must be greater than 0, but got 0"),
        (
            {"epochs": 1, "distillation": 1.5},
            "--qat-distillation is a share of the loss, 0 to 1, but got 1.5",
        ),
        (
            {"epochs": 1, "augmentation": ("mixup",)},
            "--qat-augment is made of flip, crop, cutout, but got mixup",
        ),
        ({"epochs": 1, "weight_decay": -0.1}, "--qat-weight-decay must be at least 0, but got -0.1"),
        (
            {"epochs": 1, "label_smoothing": 1.0},
            "--qat-label-smoothing is a share of each label, 0 to less than 1, but got 1",
        ),
        ({"epochs": 1, "randaugment": 2.0}, "--qat-randaugment is a strength, 0 to 1, but got 2"),
        ({"epochs": 1, "mixup": float("nan")}, "--qat-mixup must be at least 0, but got nan"),
    ],
)
def test_values_without_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Recipe(**options)
    assert words in str(refused.value)


def test_settings_make_a_recipe() -> None:
    assert recipe_of(Settings()) is None
    assert recipe_of(Settings(qat_epochs=2, qat_optimizer="adamw")) == Recipe(epochs=2, optimizer="adamw")
    assert recipe_of(Settings(qat_time_s=60.0, qat_augment=["flip"])) == Recipe(
        time_s=60.0, augmentation=("flip",)
    )
    rest = Settings(
        qat_epochs=1, qat_weight_decay=0.0, qat_label_smoothing=0.1, qat_randaugment=0.3, qat_mixup=0.2
    )
    assert recipe_of(rest) == Recipe(
        epochs=1, weight_decay=0.0, label_smoothing=0.1, randaugment=0.3, mixup=0.2
    )
    assert (Recipe(epochs=1).decay, Recipe(epochs=1, optimizer="adamw").decay) == (1e-4, 1e-2)
    with pytest.raises(ConfigurationError, match="learning_rate of fine-tuning is given, but no length"):
        recipe_of(Settings(qat_learning_rate=0.1))


def test_augmented_images_are_moved_and_mirrored_and_repeat() -> None:
    images = torch.arange(40 * 2 * 16 * 16, dtype=torch.float32).reshape(40, 2, 16, 16)
    first, second = (augment(images, ("flip", "crop"), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    flipped = augment(images, ("flip",), torch.Generator().manual_seed(1))
    is_kept = (flipped == images).all((1, 2, 3))
    assert 5 < int(is_kept.sum()) < 35
    assert torch.equal(flipped[~is_kept], images[~is_kept].flip(3))
    cropped = augment(images, ("crop",), torch.Generator().manual_seed(1))
    inner = cropped[:, :, 2:-2, 2:-2]  # every pixel there lies in the image, at most 2 away
    moves = list(itertools.product(range(-2, 3), repeat=2))
    for image, moved in zip(images, inner, strict=True):
        assert any(torch.equal(moved, image[:, 2 + dy : 14 + dy, 2 + dx : 14 + dx]) for dy, dx in moves)


def some_images(count: int = 40, side: int = 16) -> torch.Tensor:
    """Of a range that is not 0 to 1, as normalised images have."""
    return 5 * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2)) - 2


def test_a_square_is_cut_out_of_each_image() -> None:
    images = some_images()
    cut = augment(images, ("cutout",), torch.Generator().manual_seed(1))
    is_hole = cut != images
    assert is_hole.flatten(2).sum(2).eq(16).all()  # 4 x 4 pixels of each channel
    rows, columns = is_hole.any(3).sum(2), is_hole.any(2).sum(2)
    assert rows.eq(4).all()
    assert columns.eq(4).all()
    means = images.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(cut[is_hole], means[is_hole])
    assert len({tuple(hole.any(1).nonzero()[0].tolist()) for hole in is_hole[:, 0]}) > 5  # in other places
    tiny = some_images(4, 2)
    assert (augment(tiny, ("cutout",), torch.Generator()) != tiny).flatten(2).sum(2).eq(1).all()


def test_random_operations_repeat_keep_the_range_and_grow_with_their_strength() -> None:
    images = some_images()
    mild, same, strong = (
        augment(images, (), torch.Generator().manual_seed(1), strength) for strength in (0.1, 0.1, 1.0)
    )
    assert torch.equal(mild, same)
    assert mild.shape == images.shape
    assert mild.dtype == images.dtype
    distance = [(changed - images).flatten(1).norm(dim=1) for changed in (mild, strong)]
    assert (distance[0] > 0).all()
    assert float(distance[0].mean()) < 0.7 * float(distance[1].mean())
    assert float((strong.mean((1, 2, 3)) - images.mean((1, 2, 3))).abs().max()) < 0.8 * float(images.std())
    assert float(strong.std()) == pytest.approx(float(images.std()), rel=0.25)


def test_images_whose_brightness_alone_changes_are_not_sampled_anew() -> None:
    images = some_images(400)
    changed = augment(images, (), torch.Generator().manual_seed(1), 0.5)
    centred = [part - part.mean((1, 2, 3), keepdim=True) for part in (images, changed)]
    factors = (centred[1] * centred[0]).sum((1, 2, 3)) / centred[0].square().sum((1, 2, 3))
    rest = (centred[1] - factors[:, None, None, None] * centred[0]).flatten(1).norm(dim=1)
    is_plain = rest < 1e-3
    assert 4 < int(is_plain.sum()) < 60  # 1 of 21 pairs of operations
    assert set(factors[is_plain].mul(100).round().tolist()) == {75.0, 125.0}  # contrast, to both sides


def test_augmentation_of_before_draws_as_before() -> None:
    """Options that are off draw nothing, so that runs of earlier versions repeat."""
    images = some_images()
    generator = torch.Generator().manual_seed(7)
    both = augment(images, ("flip", "crop"), generator)
    again = torch.Generator().manual_seed(7)
    cropped = augment(images, ("crop",), again)
    assert torch.equal(both, augment(cropped, ("flip",), again))
    assert torch.equal(generator.get_state(), again.get_state())


def batch_of(mixup: float, step: int, seed: int = 0) -> tuple[torch.Tensor, object]:
    values = torch.arange(32.0)[:, None]
    source = source_of(TensorDataset(values, torch.arange(32)), 8, seed)
    (inputs,), labels = read_batch(source, batches_from(source, step), step, (), 0.0, mixup)
    return inputs, labels


def test_mixed_samples_have_mixed_labels_and_follow_from_seed_and_step() -> None:
    shares = []
    for step in range(3):
        labels = batch_of(0.0, step)[1]
        inputs, mixed = batch_of(0.4, step)
        assert isinstance(mixed, Mixed)
        assert torch.equal(mixed.first, labels)
        wanted = mixed.share * mixed.first + (1 - mixed.share) * mixed.second
        torch.testing.assert_close(inputs[:, 0], wanted)  # the value of a sample is its label here
        assert sorted(mixed.second.tolist()) == sorted(mixed.first.tolist())
        again, same = batch_of(0.4, step)
        assert torch.equal(again, inputs)
        assert same.share == mixed.share
        shares.append(mixed.share)
    assert len(set(shares)) == 3
    assert batch_of(0.4, 0, seed=1)[1].share != shares[0]
