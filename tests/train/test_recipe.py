"""Recipes: the schedule, and values that are refused."""

import itertools
from typing import Any

import pytest
import torch

from haqnas.errors import ConfigurationError
from haqnas.settings import Settings, recipe_of
from haqnas.train.augment import augment
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
        ({"epochs": 1, "augmentation": ("mixup",)}, "--qat-augment is made of flip, crop, but got mixup"),
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
