"""The networks of MLPerf Tiny (Banbury et al. 2021) in the shapes of that suite, from its description."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mobile import MobileNetV1, conv_norm
from .small import Autoencoder, DsCnn


class TinyBlock(nn.Module):
    """Two 3x3 convolutions; a 1x1 convolution without batch norm where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(in_channels, channels, 3, stride), nn.ReLU(), *conv_norm(channels, channels, 3)
        )
        is_same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class ResNet8(nn.Module):
    """Image classification, 32x32x3: three blocks of 16, 32 and 64 channels; 12.5 M multiply-accumulates."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 16, 3), nn.ReLU())
        self.blocks = nn.Sequential(TinyBlock(16, 16, 1), TinyBlock(16, 32, 2), TinyBlock(32, 64, 2))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class TinyDsCnn(nn.Module):
    """Keyword spotting, 49x10x1: DS-CNN whose 10x4 stem is padded as TensorFlow's SAME, to 25x5 pixels."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        plain = DsCnn(classes=classes)
        stem = plain.features[0]
        self.pad = nn.ZeroPad2d((1, 1, 4, 5))
        self.stem = nn.Conv2d(1, stem.out_channels, stem.kernel_size, stem.stride, bias=False)
        self.features = plain.features[1:]
        self.fc = plain.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.stem(self.pad(x)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def visual_wake_words() -> nn.Module:
    """Person or no person, 96x96x3: MobileNetV1 of width 0.25; 7.5 M multiply-accumulates."""
    return MobileNetV1(width=0.25, classes=2)


def machine_sounds() -> nn.Module:
    """Anomaly detection: a dense autoencoder 640, 128 x 4, 8, 128 x 4, 640; 0.26 M multiply-accumulates."""
    return Autoencoder()
