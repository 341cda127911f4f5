"""Networks with depthwise convolutions: MobileNet V1, V2, V3-small, EfficientNet-B0, ShuffleNet V2."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, never less than 90 % of the asked width."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


class MobileNetV1(nn.Module):
    """Depthwise separable blocks (Howard et al. 2017)."""

    def __init__(self, width: float = 0.25, classes: int = 10) -> None:
        super().__init__()
        plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
        plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
        channels = round_channels(32 * width)
        layers: list[nn.Module] = [*conv_norm(3, channels, 3, 2), nn.ReLU(inplace=True)]
        for wanted, stride in plan:
            out_channels = round_channels(wanted * width)
            layers += [*conv_norm(channels, channels, 3, stride, channels), nn.ReLU(inplace=True)]
            layers += [*conv_norm(channels, out_channels, 1), nn.ReLU(inplace=True)]
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.001)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(torch.flatten(self.pool(self.features(x)), 1)))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation (Sandler et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [*conv_norm(in_channels, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*conv_norm(hidden, hidden, 3, stride, hidden), nn.ReLU6(inplace=True)]
        layers += conv_norm(hidden, out_channels, 1)
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with ReLU6."""

    def __init__(self, width: float = 0.35, classes: int = 10) -> None:
        super().__init__()
        plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
        channels = round_channels(32 * width)
        layers: list[nn.Module] = [nn.Sequential(*conv_norm(3, channels, 3, 2), nn.ReLU6(inplace=True))]
        for expand, wanted, repeats, first_stride in (*plan, (6, 320, 1, 1)):
            out_channels = round_channels(wanted * width)
            for position in range(repeats):
                stride = first_stride if position == 0 else 1
                layers.append(InvertedResidual(channels, out_channels, stride, expand))
                channels = out_channels
        last = round_channels(1280 * max(1.0, width))
        layers.append(nn.Sequential(*conv_norm(channels, last, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from its mean (Hu et al. 2017)."""

    def __init__(
        self, channels: int, squeezed: int, activation: Callable[[], nn.Module], gate: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.fc2(self.activation(self.fc1(pooled))))


class GatedBlock(nn.Module):
    """Inverted residual with squeeze-and-excite: the block of MobileNetV3 and EfficientNet."""

    def __init__(
        self,
        channels: tuple[int, int, int],  # in, hidden, out
        kernel: int,
        stride: int,
        excite: Callable[[], nn.Module] | None,
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        in_channels, hidden, out_channels = channels
        layers: list[nn.Module] = []
        if hidden != in_channels:
            layers += [*conv_norm(in_channels, hidden, 1), activation()]
        layers += [*conv_norm(hidden, hidden, kernel, stride, hidden), activation()]
        if excite is not None:
            layers.append(excite())
        layers += conv_norm(hidden, out_channels, 1)
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y + x if self.has_shortcut else y


# kernel, hidden, out, squeeze-and-excite, hardswish, stride (table 2 of Howard et al. 2019)
_V3_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class MobileNetV3Small(nn.Module):
    """Hardswish, and squeeze-and-excite with a hardsigmoid gate."""

    def __init__(self, width: float = 0.5, classes: int = 10) -> None:
        super().__init__()
        channels = round_channels(16 * width)
        layers: list[nn.Module] = [*conv_norm(3, channels, 3, 2), nn.Hardswish(inplace=True)]
        for kernel, wanted_hidden, wanted, excites, is_hardswish, stride in _V3_SMALL:
            hidden, out_channels = round_channels(wanted_hidden * width), round_channels(wanted * width)
            squeezed = round_channels(hidden / 4)

            def excite(hidden: int = hidden, squeezed: int = squeezed) -> nn.Module:
                return SqueezeExcite(hidden, squeezed, nn.ReLU, nn.Hardsigmoid)

            activation = nn.Hardswish if is_hardswish else nn.ReLU
            layers.append(
                GatedBlock(
                    (channels, hidden, out_channels), kernel, stride, excite if excites else None, activation
                )
            )
            channels = out_channels
        last = round_channels(576 * width)
        layers += [*conv_norm(channels, last, 1), nn.Hardswish(inplace=True)]
        self.features = nn.Sequential(*layers)
        wide = round_channels(1024 * width)
        self.classifier = nn.Sequential(
            nn.Linear(last, wide), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(wide, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.flatten(1))


# expand, kernel, stride, out, repeats (table 1 of Tan and Le 2019)
_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNetB0(nn.Module):
    """SiLU, and squeeze-and-excite with a sigmoid gate."""

    def __init__(self, width: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        layers: list[nn.Module] = [*conv_norm(3, channels, 3, 2), nn.SiLU(inplace=True)]
        for expand, kernel, first_stride, wanted, repeats in _B0:
            for position in range(repeats):
                out_channels, hidden = round_channels(wanted * width), channels * expand
                squeezed = max(1, channels // 4)

                def excite(hidden: int = hidden, squeezed: int = squeezed) -> nn.Module:
                    return SqueezeExcite(hidden, squeezed, nn.SiLU, nn.Sigmoid)

                stride = first_stride if position == 0 else 1
                layers.append(GatedBlock((channels, hidden, out_channels), kernel, stride, excite, nn.SiLU))
                channels = out_channels
        last = round_channels(1280 * width)
        layers += [*conv_norm(channels, last, 1), nn.SiLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved; then the halves are interleaved (Ma et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        branch_in = in_channels if stride > 1 else in_channels // 2
        self.stride = stride
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_norm(in_channels, in_channels, 3, stride, in_channels),
                *conv_norm(in_channels, half, 1),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            *conv_norm(branch_in, half, 1),
            nn.ReLU(inplace=True),
            *conv_norm(half, half, 3, stride, half),
            *conv_norm(half, half, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
            y = torch.cat((kept, self.branch2(changed)), dim=1)
        else:
            y = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return shuffle_channels(y, 2)


class ShuffleNetV2(nn.Module):
    """Channel split, concatenation and channel shuffle."""

    def __init__(
        self, channels: tuple[int, int, int, int, int] = (24, 48, 96, 192, 256), classes: int = 10
    ) -> None:
        super().__init__()
        stem, *stages, last = channels
        self.conv1 = nn.Sequential(*conv_norm(3, stem, 3, 2), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        units: list[nn.Module] = []
        in_channels = stem
        for out_channels, repeats in zip(stages, (4, 8, 4), strict=True):
            for position in range(repeats):
                units.append(ShuffleUnit(in_channels, out_channels, 2 if position == 0 else 1))
                in_channels = out_channels
        self.stages = nn.Sequential(*units)
        self.conv5 = nn.Sequential(*conv_norm(in_channels, last, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stages(self.maxpool(self.conv1(x))))
        return self.fc(x.mean([2, 3]))
