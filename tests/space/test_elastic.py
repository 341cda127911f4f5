"""The spaces of known networks, as one would write them by hand."""

import pytest
import torch
from torch import nn

from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.space.architecture import KnobKind
from haqnas.space.elastic import Elasticity, derive_architecture_space
from tests.zoo import ZOO


def space_of(name, elasticity=Elasticity()):  # noqa: B008  frozen
    return derive_architecture_space(normalise(trace(*ZOO[name]())), elasticity)


def choices(space, kind):
    return {knob.name: knob.choices for knob in space.knobs if knob.kind is kind}


def layers(space):
    return {knob.name: knob.layers for knob in space.knobs if knob.kind is not KnobKind.RESOLUTION}


def blocks(stage, first, last, *convs):
    return tuple(f"{stage}.{block}.{conv}" for block in range(first, last + 1) for conv in convs)


def test_resnet20_with_zero_padded_shortcuts():
    space = space_of("resnet20")
    residual = [blocks(f"layer{stage}", 0, 2, "conv2") for stage in (1, 2, 3)]
    inner = {
        f"width:{name}": (name,) for stage in (1, 2, 3) for name in blocks(f"layer{stage}", 0, 2, "conv1")
    }
    assert layers(space) == {
        # Channels of a stage are padded into the middle of those of the next one, and stay together with them.
        "width:conv1": ("conv1", *residual[0], *residual[1], *residual[2]),
        "width:layer2.0.conv2": (*residual[1], *residual[2]),
        "width:layer3.0.conv2": residual[2],
        **inner,
        "depth:layer1.0.conv1": blocks("layer1", 0, 2, "conv1", "conv2"),
        "depth:layer2.1.conv1": blocks("layer2", 1, 2, "conv1", "conv2"),
        "depth:layer3.1.conv1": blocks("layer3", 1, 2, "conv1", "conv2"),
    }
    assert choices(space, KnobKind.RESOLUTION) == {"resolution:x": (32, 28, 24, 20, 16)}
    widths = choices(space, KnobKind.WIDTH)
    assert widths["width:conv1"] == widths["width:layer2.0.conv2"] == (16, 8)  # of stages 1, 2, 3; of 2, 3
    assert widths["width:layer3.0.conv2"] == (32, 24, 16)
    assert widths["width:layer3.0.conv1"] == (64, 48, 32)
    assert choices(space, KnobKind.DEPTH) == {
        "depth:layer1.0.conv1": (3, 2, 1, 0),
        "depth:layer2.1.conv1": (2, 1, 0),
        "depth:layer3.1.conv1": (2, 1, 0),
    }
    assert space.size == 5 * 4 * 3 * 3 * 2 * 2 * 3 * 2**3 * 3**6


def test_resnet18_with_projections_and_a_stem_of_7():
    space = space_of("resnet18")
    assert layers(space)["width:layer2.0.conv2"] == (
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "layer2.1.conv2",
    )
    assert layers(space)["width:conv1"] == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert choices(space, KnobKind.KERNEL) == {"kernel:conv1": (7, 5, 3)}
    assert choices(space, KnobKind.DEPTH)["depth:layer1.0.conv1"] == (2, 1, 0)


def test_mobile_network_with_gates():
    space = space_of("mobilenet_v3_small")
    block = "features.8.block"
    found = layers(space)
    assert found[f"width:{block}.0"] == (f"{block}.0", f"{block}.3", f"{block}.6.fc2")
    assert found[f"width:{block}.6.fc1"] == (f"{block}.6.fc1",)
    assert found["width:features.6.block.7"] == tuple(f"features.{i}.block.7" for i in (6, 7, 8, 9, 10))
    assert choices(space, KnobKind.KERNEL)[f"kernel:{block}.3"] == (5, 3)


def test_concatenations_let_their_parts_have_widths_of_their_own():
    found = layers(space_of("squeezenet"))
    assert [name for name in found if "features.4" in name] == [
        "width:features.4.squeeze",
        "width:features.4.expand1x1",
        "width:features.4.expand3x3",
    ]
    assert all(len(names) == 1 for names in found.values())
    assert "width:classifier.1" not in found  # classes
    dense = layers(space_of("densenet_block"))
    # the norms that cannot be folded read all that is before them
    assert dense["width:block.1.conv2"] == ("block.1.conv2", "block.2.norm1", "block.3.norm1", "norm")


def test_channels_that_are_shuffled_stay():
    found = layers(space_of("shufflenet_v2"))
    inside = {
        f"width:stages.{i}.branch2.0": (f"stages.{i}.branch2.0", f"stages.{i}.branch2.3") for i in range(16)
    }
    assert found == {
        "width:conv1.0": ("conv1.0", "stages.0.branch1.0"), **inside, "width:conv5.0": ("conv5.0",)
    }  # fmt: skip


def test_networks_without_images():
    transformer = space_of("small_vit")
    assert choices(transformer, KnobKind.RESOLUTION) == {}  # positions are learned
    assert list(choices(transformer, KnobKind.WIDTH)) == ["width:blocks.0.fc1", "width:blocks.1.fc1"]
    assert choices(transformer, KnobKind.DEPTH) == {"depth:blocks.0.qkv": (4, 3, 2, 1, 0)}
    signal = space_of("conv1d")  # 8 channels of each layer in a group of the convolution
    assert choices(signal, KnobKind.WIDTH) == {"width:stem.0": (4, 3, 2)}
    assert layers(signal)["width:stem.0"] == ("stem.0", "conv1", "conv2")


def test_how_far_sizes_shrink_can_be_said():
    space = space_of(
        "resnet20", Elasticity(width_shares=(0.25,), channel_multiple=4, resolution_shares=(0.3,))
    )
    assert choices(space, KnobKind.WIDTH)["width:conv1"] == (16, 4)
    assert not choices(space, KnobKind.RESOLUTION)  # 9.6 pixels


@pytest.mark.parametrize("has_stem", [False, True])
def test_a_network_keeps_a_layer(has_stem):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(4, 4, 1) if has_stem else nn.Identity()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.stem(x)
            x = x + self.a(x)
            return x + self.b(x)

    space = derive_architecture_space(normalise(trace(Residual().eval(), (torch.zeros(1, 4, 4, 4),))))
    assert choices(space, KnobKind.DEPTH) == {"depth:a": (2, 1, 0) if has_stem else (2, 1)}
