"""A wide residual network for CIFAR-10, 64 to 256 channels and 97 M multiply-adds, trained here from scratch.

    HAQNAS_DATA=/path/to/data python examples/cifar10_wide.py
    HAQNAS_DATA=/path/to/data haqnas compile examples/cifar10_wide.py --target host -o build/wide

The first command trains into build/cifar10_wide.pt (or the file that HAQNAS_WIDE names), less than half an hour on two
cores with AVX-512 bfloat16, and goes on where it was stopped; the second reads that file. The folder HAQNAS_DATA is
described in examples/README.md. Recipe: SGD with Nesterov momentum, one cycle, label smoothing, random crops and mirror
images.
"""

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from cifar10_resnet import MEAN, STD, CifarImages, calibration_data, example_inputs, train_data, val_data
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["build_model", "calibration_data", "example_inputs", "train_data", "val_data"]

EPOCHS = 15
BATCH_SIZE = 256
PEAK_RATE = 0.4
WARM_SHARE = 0.2  # of the steps, in which the rate rises
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
CROP_PADDING = 4
SEED = 0


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + x)


class Widen(nn.Module):
    """A 3x3 convolution to more channels, then half the height and width."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) -> (n, channels, h / 2, w / 2)."""
        return torch.relu(functional.max_pool2d(self.bn(self.conv(x)), 2))


class WideNet(nn.Module):
    """Ten convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(Widen(3, 64), Residual(64))
        self.stage2 = nn.Sequential(Widen(64, 128), Residual(128))
        self.stage3 = nn.Sequential(Widen(128, 256), Residual(256))
        self.linear = nn.Linear(256, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, 10) of normalised images (n, 3, 32, 32)."""
        out = self.stage3(self.stage2(self.stage1(image)))
        return self.linear(out.mean((2, 3)))


def _weights() -> Path:
    return Path(os.environ.get("HAQNAS_WIDE", "build/cifar10_wide.pt"))


def build_model() -> nn.Module:
    """The network with the weights that this file trained."""
    path = _weights()
    if not path.is_file():
        raise RuntimeError(
            f"{path} is not there: train it with `python {Path(__file__).name}` (docstring), or name it in HAQNAS_WIDE"
        )
    model = WideNet()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    return model.eval()


def _pixels(images: CifarImages) -> tuple[Tensor, Tensor]:
    """All pixels as uint8 (n, 3, 32, 32), all labels."""
    pixels = torch.tensor(images.pixels).permute(0, 3, 1, 2)
    return pixels, torch.tensor(images.labels).long()


def _normalise(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _augment(pixels: Tensor) -> Tensor:
    """Half of the images mirrored, each shifted by up to CROP_PADDING pixels over its mirrored border."""
    count, _, height, width = pixels.shape
    padded = functional.pad(pixels.float(), (CROP_PADDING,) * 4, mode="reflect").to(pixels.dtype)
    rows = torch.randint(0, 2 * CROP_PADDING + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * CROP_PADDING + 1, (count, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    image = torch.arange(count)
    cropped = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (n, h, w, 3)
    return cropped.permute(0, 3, 1, 2)


def _batches(pixels: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order; what is less than a batch is left out."""
    for chosen in itertools.islice(torch.randperm(len(labels)).split(BATCH_SIZE), len(labels) // BATCH_SIZE):
        yield _normalise(_augment(pixels[chosen])), labels[chosen]


def _score(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Top-1 in float32."""
    model.eval()
    with torch.no_grad():
        hits = [
            (model(_normalise(part)).argmax(1) == expected).sum().item()
            for part, expected in zip(pixels.split(500), labels.split(500), strict=True)
        ]
    return sum(hits) / len(labels)


def _train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, schedule, data) -> float:
    """One pass; gives the mean loss."""
    model.train()
    losses = []
    for images, labels in _batches(*data):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def train(path: Path, epochs: int) -> None:
    """Train into `path`, which after each epoch holds all that is needed to go on."""
    torch.manual_seed(SEED)
    data, test = _pixels(train_data()), _pixels(val_data())
    model = WideNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    steps = epochs * (len(data[1]) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps, pct_start=WARM_SHARE)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    done = 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        done = state["epochs"]
        if state["planned"] != epochs:
            raise SystemExit(
                f"{path} was begun with --epochs {state['planned']}; give that, or take the file away"
            )
        torch.set_rng_state(state["rng"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(done, epochs):
        start, start_cpu = time.monotonic(), time.process_time()
        loss = _train_epoch(model, optimizer, schedule, data)
        states = {name: part.state_dict() for name, part in parts.items()}
        partial = path.with_suffix(".partial")
        torch.save({**states, "epochs": epoch + 1, "planned": epochs, "rng": torch.get_rng_state()}, partial)
        partial.replace(path)
        spent, cpu = time.monotonic() - start, time.process_time() - start_cpu
        print(
            f"epoch {epoch + 1}/{epochs}: loss {loss:.3f}, {spent:.0f} s ({cpu:.0f} s of CPU time)",
            flush=True,
        )
    print(f"{path}: top-1 {_score(model, *test):.2%} on the test images")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the wide CIFAR-10 network.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    train(_weights(), arguments.epochs)


if __name__ == "__main__":
    main()
