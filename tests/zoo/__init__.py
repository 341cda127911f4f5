"""The model zoo of the tests: architectures written from their papers, random weights, small inputs.

`ZOO[name]()` returns a network in eval mode and its example inputs (batch 1), the same at each call.
The classes of this package take widths and class counts, so that benchmarks can build the full size.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from .generative import DcganGenerator, UNet
from .mobile import EfficientNetB0, MobileNetV1, MobileNetV2, MobileNetV3Small, ShuffleNetV2
from .resnet import resnet18, resnet20, resnet50, resnet56
from .settle import settle
from .small import Autoencoder, Conv1dNet, DenseBlockNet, DsCnn, SmallViT, SqueezeNet

Entry = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]


def build(
    make: Callable[[], nn.Module], shape: tuple[int, ...], seed: int = 0
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Make a network with seeded weights and settled batch norms, and one seeded input of `shape`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        inputs = (torch.randn(shape),)
    return settle(model, inputs, seed), inputs


ZOO: Mapping[str, Entry] = MappingProxyType(
    {
        "resnet18": partial(build, partial(resnet18, width=16), (1, 3, 64, 64)),
        "resnet50": partial(build, partial(resnet50, width=16), (1, 3, 64, 64)),
        "resnet20": partial(build, resnet20, (1, 3, 32, 32)),
        "mobilenet_v1": partial(build, MobileNetV1, (1, 3, 64, 64)),
        "mobilenet_v2": partial(build, MobileNetV2, (1, 3, 64, 64)),
        "mobilenet_v3_small": partial(build, MobileNetV3Small, (1, 3, 64, 64)),
        "efficientnet_b0": partial(build, partial(EfficientNetB0, width=0.5), (1, 3, 64, 64)),
        "shufflenet_v2": partial(build, ShuffleNetV2, (1, 3, 64, 64)),
        "squeezenet": partial(build, SqueezeNet, (1, 3, 64, 64)),
        "densenet_block": partial(build, DenseBlockNet, (1, 3, 32, 32)),
        "ds_cnn": partial(build, DsCnn, (1, 1, 49, 10)),
        "conv1d": partial(build, Conv1dNet, (1, 6, 128)),
        "autoencoder": partial(build, Autoencoder, (1, 640)),
        "unet_transposed": partial(build, UNet, (1, 3, 32, 32)),
        "unet_upsample": partial(build, partial(UNet, upsampling="bilinear"), (1, 3, 32, 32)),
        "dcgan_generator": partial(build, DcganGenerator, (1, 32, 1, 1)),
        "small_vit": partial(build, SmallViT, (1, 3, 32, 32)),
    }
)

__all__ = [
    "ZOO",
    "Autoencoder",
    "Conv1dNet",
    "DcganGenerator",
    "DenseBlockNet",
    "DsCnn",
    "EfficientNetB0",
    "Entry",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3Small",
    "ShuffleNetV2",
    "SmallViT",
    "SqueezeNet",
    "UNet",
    "build",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet56",
]
