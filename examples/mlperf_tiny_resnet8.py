"""ResNet-8 of MLPerf Tiny (image classification) with its published weights, from the folder named by HAQNAS_DATA.

    HAQNAS_DATA=/path/to/data haqnas compile examples/mlperf_tiny_resnet8.py --target cortex-a76 -o build/resnet8
    HAQNAS_DATA=/path/to/data python examples/evaluate_binary.py examples/mlperf_tiny_resnet8.py build/resnet8

The folder holds CIFAR-10 (examples/README.md) and `mlperf_tiny/resnet8_float.npz`: the constants of
`pretrainedResnet.tflite` of https://github.com/mlcommons/tiny (Apache-2.0), tensor n of the file as `t<n>`. Inputs are
raw pixels, 0 to 255. The network is that of Banbury et al., "MLPerf Tiny Benchmark", arXiv 2106.07597.
"""

import numpy as np
import torch
from cifar10_resnet import CALIBRATION_COUNT, data_folder, dataset
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset

# Tensors of the published file, batch norms folded: (weight (out, h, w, in), bias (out,)).
LAYERS = {
    "stem": ("t8", "t3"),
    "block1.conv1": ("t9", "t4"),
    "block1.conv2": ("t10", "t17"),
    "block2.conv1": ("t11", "t5"),
    "block2.conv2": ("t12", "t18"),
    "block2.shortcut": ("t13", "t19"),
    "block3.conv1": ("t14", "t6"),
    "block3.conv2": ("t15", "t20"),
    "block3.shortcut": ("t16", "t21"),
    "linear": ("t7", "t1"),
}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == channels else 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, self.stride, padding=2 - self.stride)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Identity() if self.stride == 1 else nn.Conv2d(in_channels, channels, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) -> (n, channels, h / stride, w / stride)."""
        # TensorFlow's SAME pads an even image of a strided 3x3 window below and on the right alone.
        padded = functional.pad(x, (0, 1, 0, 1)) if self.stride == 2 else x
        out = self.conv2(torch.relu(self.conv1(padded)))
        return torch.relu(out + self.shortcut(x))


class ResNet8(nn.Module):
    """Seven 3x3 convolutions, two 1x1 ones on shortcuts, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block1, self.block2, self.block3 = Block(16, 16), Block(16, 32), Block(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 10) of pixels (n, 3, 32, 32), 0 to 255."""
        out = torch.relu(self.stem(pixels))
        out = self.block3(self.block2(self.block1(out)))
        return self.linear(out.mean((2, 3)))


class Pixels(Dataset):
    """Pairs of an image (3, 32, 32) of raw pixels and its class."""

    def __init__(self, split: str) -> None:
        self.images = dataset(split)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(self.images.pixels[index].transpose(2, 0, 1).copy()).float()
        return pixels, int(self.images.labels[index])


def build_model() -> nn.Module:
    """87.20 % top-1 on the 10,000 test images in float."""
    path = data_folder() / "mlperf_tiny" / "resnet8_float.npz"
    if not path.is_file():
        raise RuntimeError(f"{path} is not there; examples/README.md says what belongs into HAQNAS_DATA")
    constants = np.load(path)
    model = ResNet8()
    with torch.no_grad():
        for name, (weight, bias) in LAYERS.items():
            layer = model.get_submodule(name)
            values = torch.from_numpy(constants[weight])
            layer.weight.copy_(values.permute(0, 3, 1, 2) if values.ndim == 4 else values)
            layer.bias.copy_(torch.from_numpy(constants[bias]))
    return model.eval()


def example_inputs() -> tuple[Tensor, ...]:
    """One image: shapes and types are read from it."""
    return (torch.zeros(1, 3, 32, 32),)


def train_data() -> Dataset:
    """50,000 pairs."""
    return Pixels("train")


def calibration_data() -> Dataset:
    """Training images, evenly spaced, whose activations set the quantization ranges."""
    return Subset(train_data(), range(0, 50_000, 50_000 // CALIBRATION_COUNT))


def val_data() -> Dataset:
    """The 10,000 test images."""
    return Pixels("test")
