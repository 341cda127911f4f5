"""A small network on scikit-learn's handwritten digits (8x8 grey images), trained in seconds.

    haqnas compile examples/digits.py --target arm-cpu -o build/digits

A model file for haqnas has `build_model` and `example_inputs`; the data functions are optional. Without them the
network is calibrated on synthetic inputs and judged by how often it agrees with the float model.
"""

import functools
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

TRAIN_COUNT = 1297  # of 1797 images; the other 500 are the test split
CALIBRATION_COUNT = 256
EPOCHS = 12
BATCH_SIZE = 64
SEED = 0


class DigitsNet(nn.Module):
    """Three convolutions with a residual connection, then a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.down = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 1, 8, 8) with pixels in 0 to 1."""
        features = self.down(self.stem(image))
        features = torch.relu(features + self.body(features))
        return self.classifier(torch.flatten(self.pool(features), 1))


@functools.cache
def _digits() -> TensorDataset:
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(SEED))
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # pixels are 0 to 16
    return TensorDataset(images[order], torch.from_numpy(digits.target).long()[order])


def train_data() -> Dataset:
    """1297 pairs of an image (1, 8, 8) and its digit."""
    return Subset(_digits(), range(TRAIN_COUNT))


def calibration_data() -> Dataset:
    """Training images whose activations set the quantization ranges."""
    return Subset(_digits(), range(CALIBRATION_COUNT))


def val_data() -> Dataset:
    """The 500 images that training never sees."""
    return Subset(_digits(), range(TRAIN_COUNT, len(_digits())))


def build_model() -> nn.Module:
    """Train from scratch, the same way each time: a few seconds."""
    return trained(DigitsNet)


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on these digits; `make` draws its first weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small gains nothing from more, and one thread is repeatable
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return _train(make()).eval()
    finally:
        torch.set_num_threads(threads)


def _train(model: nn.Module) -> nn.Module:
    images, labels = (tensor[:TRAIN_COUNT] for tensor in _digits().tensors)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    num_steps = EPOCHS * -(-TRAIN_COUNT // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=num_steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAIN_COUNT).split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model


def example_inputs() -> tuple[Tensor, ...]:
    """One image: shapes and types are read from it."""
    return (torch.zeros(1, 1, 8, 8),)
