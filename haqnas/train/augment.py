"""Augmentation of whole batches of images; anything more belongs into the user's data set."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from haqnas.train.recipe import Augmentation

CROP_SHARE = 8  # a crop is moved by up to an eighth of the image's side
CUTOUT_SHARE = 4  # a square with a quarter of the image's sides is cut out

# What each random operation does at strength 1, to one side or the other; at less strength so much less.
MOVE = 0.3  # of the image's side
TURN = math.radians(30)
SHEAR = 0.3
BRIGHTNESS = 0.5  # added, in standard deviations of the image
CONTRAST = 0.5  # of the distance from the image's mean
OPERATIONS = ("move x", "move y", "turn", "shear x", "shear y", "brightness", "contrast")
NUM_OPERATIONS = 2  # on each image


def are_images(inputs: Sequence[Tensor]) -> bool:
    """Whether inputs without batch dimension are all (c, h, w)."""
    return all(part.ndim == 3 for part in inputs)


def augment(
    images: Tensor, kinds: Sequence[Augmentation], generator: torch.Generator, strength: float = 0.0
) -> Tensor:
    """Images (n, c, h, w) of any dtype, each changed on its own; the input is unchanged.

    `strength`, 0 to 1, of random operations, for float images.
    """
    if "crop" in kinds:
        images = _crop(images, generator)
    if "flip" in kinds:
        chosen = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    if strength > 0:
        images = _operate(images, strength, generator)
    if "cutout" in kinds:
        images = _cut_out(images, generator)
    return images


def _crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by some pixels; its border is mirrored."""
    count, _, height, width = images.shape
    pad_y, pad_x = height // CROP_SHARE, width // CROP_SHARE
    padded = functional.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    top = torch.randint(2 * pad_y + 1, (count, 1), generator=generator)
    left = torch.randint(2 * pad_x + 1, (count, 1), generator=generator)
    rows = (top + torch.arange(height))[:, None, :, None]
    columns = (left + torch.arange(width))[:, None, None, :]
    samples = torch.arange(count)[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[samples, channels, rows, columns]


def _cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """A square of each image gets the mean of its channel; source: Cutout (arXiv 1708.04552)."""
    count, _, height, width = images.shape
    inside = []
    for side in (height, width):
        length = max(side // CUTOUT_SHARE, 1)
        start = torch.randint(side - length + 1, (count, 1), generator=generator)
        place = torch.arange(side)
        inside.append((place >= start) & (place < start + length))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    mean = images.double().mean((2, 3), keepdim=True).to(images.dtype)
    return torch.where(hole, mean, images)


def _operate(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Some of OPERATIONS on each image, in one order; after RandAugment (arXiv 1909.13719), on values of any range."""
    count = len(images)
    drawn = torch.rand(count, len(OPERATIONS), generator=generator).argsort(1) < NUM_OPERATIONS
    sign = 2.0 * torch.randint(2, (count, len(OPERATIONS)), generator=generator) - 1
    amounts = strength * sign * drawn
    moved = _warped(images, amounts[:, :5])
    is_moved = drawn[:, :5].any(1)[:, None, None, None]
    images = torch.where(is_moved, moved, images)  # the others stay as they are to the last bit
    brightness, contrast = (amounts[:, index, None, None, None] for index in (5, 6))
    mean = images.mean((1, 2, 3), keepdim=True)
    deviation = images.std((1, 2, 3), correction=0, keepdim=True)
    changed = images + brightness * BRIGHTNESS * deviation + contrast * CONTRAST * (images - mean)
    return changed.to(images.dtype)


def _warped(images: Tensor, amounts: Tensor) -> Tensor:
    """Move, turn and shear each image; what comes in from outside is mirrored. `amounts` (n, 5), -1 to 1."""
    move_x, move_y, turn, shear_x, shear_y = amounts.unbind(1)
    angle = turn * TURN
    aspect = images.shape[3] / images.shape[2]  # so that turned images are not sheared, in places of -1 to 1
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack([cos, shear_x * SHEAR - sin / aspect, 2 * MOVE * move_x], 1),
        torch.stack([shear_y * SHEAR + sin * aspect, cos, 2 * MOVE * move_y], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False
    )
