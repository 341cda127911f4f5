"""The grid: small networks whose layers cover common shapes, for a profile that is made without a model.

Two layers of each shape follow each other, so that what is measured reads what its like has written, borders included.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

# (height and width, channels): the stages of ResNet-18/50, MobileNetV2 and of networks for CIFAR-10 and MLPerf Tiny.
_IMAGES = ((56, 64), (28, 128), (14, 256), (7, 512), (32, 16), (16, 32), (8, 64))
_POINTWISE = ((112, 16, 96), (56, 24, 144), (28, 32, 192), (14, 96, 576), (7, 160, 960), (25, 64, 64))
_DEPTHWISE = ((112, 32), (56, 144), (28, 192), (14, 576), (7, 960), (24, 16))
_LINEAR = ((512, 1000), (1280, 1000), (640, 128), (64, 10))


def _block(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]


def _conv(size: int, channels: int, kernel: int, stride: int, groups: int) -> tuple[nn.Module, Tensor]:
    padding = kernel // 2
    first = nn.Conv2d(channels, channels, kernel, stride, padding, groups=groups, bias=False)
    second = nn.Conv2d(channels, channels, kernel, 1, padding, groups=groups, bias=False)
    return nn.Sequential(*_block(first), *_block(second)), torch.randn(1, channels, size, size)


def _pointwise(size: int, narrow: int, wide: int) -> tuple[nn.Module, Tensor]:
    layers = (nn.Conv2d(narrow, wide, 1, bias=False), nn.Conv2d(wide, narrow, 1, bias=False))
    return nn.Sequential(*(part for layer in layers for part in _block(layer))), torch.randn(
        1, narrow, size, size
    )


def _stem(size: int, channels: int, kernel: int, stride: int) -> tuple[nn.Module, Tensor]:
    layer = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(*_block(layer)), torch.randn(1, 3, size, size)


def _linear(features: int, outputs: int) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs)), torch.randn(
        1, features
    )


Entry = Callable[[], tuple[nn.Module, Tensor]]


def _entries() -> Mapping[str, Entry]:
    found: dict[str, Entry] = {}
    for size, channels in _IMAGES:
        for stride in (1, 2):
            name = f"conv 3x3 {size}x{size}x{channels} stride {stride}"
            found[name] = partial(_conv, size, channels, 3, stride, 1)
    for size, narrow, wide in _POINTWISE:
        found[f"conv 1x1 {size}x{size} {narrow} to {wide}"] = partial(_pointwise, size, narrow, wide)
    for size, channels in _DEPTHWISE:
        for kernel in (3, 5):
            for stride in (1, 2):
                name = f"depthwise {kernel}x{kernel} {size}x{size}x{channels} stride {stride}"
                found[name] = partial(_conv, size, channels, kernel, stride, channels)
    found["stem 3x3 32x32"] = partial(_stem, 32, 16, 3, 1)
    found["stem 3x3 224x224"] = partial(_stem, 224, 32, 3, 2)
    found["stem 7x7 224x224"] = partial(_stem, 224, 64, 7, 2)
    for features, outputs in _LINEAR:
        found[f"linear {features} to {outputs}"] = partial(_linear, features, outputs)
    return MappingProxyType(found)


GRID = _entries()
