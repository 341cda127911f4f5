"""Augmentation of whole batches of images; anything more belongs into the user's data set."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from haqnas.train.recipe import Augmentation

CROP_SHARE = 8  # a crop is moved by up to an eighth of the image's side


def augment(images: Tensor, kinds: Sequence[Augmentation], generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) of any dtype, each changed on its own; the input is unchanged."""
    if "crop" in kinds:
        images = _crop(images, generator)
    if "flip" in kinds:
        chosen = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
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
