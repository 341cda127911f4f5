"""The networks that are compared with peers: full size, random weights with settled batch norms, batch 1."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from tests.zoo import Entry, MobileNetV2, MobileNetV3Small, build, resnet18, resnet20, resnet50
from tests.zoo.tiny import ResNet8, TinyDsCnn, machine_sounds, visual_wake_words

NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        "resnet18": partial(build, partial(resnet18, classes=1000), (1, 3, 224, 224)),
        "resnet50": partial(build, partial(resnet50, classes=1000), (1, 3, 224, 224)),
        "mobilenet_v2": partial(build, partial(MobileNetV2, width=1.0, classes=1000), (1, 3, 224, 224)),
        "mobilenet_v3_small": partial(
            build, partial(MobileNetV3Small, width=1.0, classes=1000), (1, 3, 224, 224)
        ),
        "resnet20": partial(build, resnet20, (1, 3, 32, 32)),
        "resnet8": partial(build, ResNet8, (1, 3, 32, 32)),
        "ds_cnn": partial(build, TinyDsCnn, (1, 1, 49, 10)),
        "vww": partial(build, visual_wake_words, (1, 3, 96, 96)),
        "autoencoder": partial(build, machine_sounds, (1, 640)),
    }
)
CALIBRATION_SAMPLES = 16


def calibration_inputs(example: Tensor) -> Tensor:
    """The samples (n, ...) on which everybody calibrates."""
    shape = (CALIBRATION_SAMPLES, *example.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))
