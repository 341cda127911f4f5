"""ResNet-20 and ResNet-56 on CIFAR-10 with published weights, from the folder named by HAQNAS_DATA.

    HAQNAS_DATA=/path/to/data haqnas compile examples/cifar10_resnet.py --target cortex-a76 -o build/resnet20
    HAQNAS_DATA=/path/to/data haqnas compile examples/cifar10_resnet.py:resnet56 --target host -o build/resnet56

The folder holds `load.py`, whose `cifar10("train" | "test")` gives uint8 images (n, 32, 32, 3) RGB and labels (n,),
and `weights/resnet20-12fca82f.th`, `weights/resnet56-4bfd9763.th` of
https://github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause). Networks: He et al., "Deep
Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2,
with the parameter-free shortcut (option A).
"""

import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset

MEAN = (0.485, 0.456, 0.406)  # what the published weights were trained with
STD = (0.229, 0.224, 0.225)
CALIBRATION_COUNT = 512


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes the shortcut drops pixels and pads channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.channel_padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) -> (n, channels, h / stride, w / stride)."""
        shortcut = x
        if self.channel_padding:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.channel_padding, self.channel_padding))
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """6 * blocks + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, 10) of normalised images (n, 3, 32, 32)."""
        out = torch.relu(self.bn1(self.conv1(image)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


def data_folder() -> Path:
    """HAQNAS_DATA; raises RuntimeError where it is not what this example needs."""
    try:
        folder = Path(os.environ["HAQNAS_DATA"])
    except KeyError:
        raise RuntimeError(
            "this example needs the environment variable HAQNAS_DATA: a folder with load.py and weights/, "
            "described in examples/README.md; examples/digits.py needs no data"
        ) from None
    if not (folder / "load.py").is_file():
        raise RuntimeError(
            f"HAQNAS_DATA={folder} holds no load.py; examples/README.md says what belongs there"
        )
    return folder


def _load(blocks: int, file_name: str) -> nn.Module:
    checkpoint = torch.load(data_folder() / "weights" / file_name, map_location="cpu", weights_only=True)
    model = CifarResNet(blocks)
    model.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()})
    return model.eval()


class CifarImages(Dataset):
    """Pairs of a normalised image (3, 32, 32) and its class; pixels stay uint8 until they are asked for."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels, self.labels = pixels, labels
        self.mean, self.std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.pixels[index].transpose(2, 0, 1).copy()).float() / 255
        return (image - self.mean) / self.std, int(self.labels[index])


@functools.cache
def dataset(split: str) -> CifarImages:
    """The 50,000 images of "train" or the 10,000 of "test"."""
    spec = importlib.util.spec_from_file_location("haqnas_data_load", data_folder() / "load.py")
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{data_folder() / 'load.py'} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return CifarImages(*module.cifar10(split))


def build_model() -> nn.Module:
    """ResNet-20; 91.73 % top-1 on the 10,000 test images in float."""
    return _load(3, "resnet20-12fca82f.th")


def resnet56() -> nn.Module:
    """ResNet-56; 93.39 % top-1 in float."""
    return _load(9, "resnet56-4bfd9763.th")


def example_inputs() -> tuple[Tensor, ...]:
    """One image: shapes and types are read from it."""
    return (torch.zeros(1, 3, 32, 32),)


def train_data() -> Dataset:
    """50,000 pairs of a normalised image (3, 32, 32) and its class."""
    return dataset("train")


def calibration_data() -> Dataset:
    """Training images, evenly spaced, whose activations set the quantization ranges."""
    return Subset(dataset("train"), range(0, 50_000, 50_000 // CALIBRATION_COUNT))


def val_data() -> Dataset:
    """The 10,000 test images."""
    return dataset("test")
