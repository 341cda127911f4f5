"""SqueezeNet, a DenseNet block, DS-CNN, a 1-D convolution network, an autoencoder, a small transformer."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Fire(nn.Module):
    """Squeeze 1x1, then expand by 1x1 and 3x3 side by side (Iandola et al. 2016)."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x), inplace=True)
        return torch.cat([functional.relu(self.expand1x1(x)), functional.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: fire modules, max pools with ceil_mode, classifier by convolution."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(512, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).squeeze(3).squeeze(2)


class DenseLayer(nn.Module):
    """Batch norm before the convolution (pre-activation): it cannot be folded into a layer before it."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class DenseBlockNet(nn.Module):
    """Stem, one dense block, one transition with average pool (Huang et al. 2016)."""

    def __init__(self, growth: int = 12, num_layers: int = 4, classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv0 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.block = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(num_layers)))
        channels += num_layers * growth
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)
        self.norm_final = nn.BatchNorm2d(channels // 2)
        self.classifier = nn.Linear(channels // 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.conv0(x))
        x = self.pool(self.conv(functional.relu(self.norm(x), inplace=True)))
        x = functional.relu(self.norm_final(x), inplace=True)
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, (1, 1)), 1))


class DsCnn(nn.Module):
    """Keyword spotting on a 49x10 spectrogram: depthwise separable blocks (Zhang et al. 2017)."""

    def __init__(self, channels: int = 64, num_blocks: int = 4, classes: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, (10, 4), (2, 2), (4, 1), bias=False)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        for _ in range(num_blocks):
            layers += [nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = functional.avg_pool2d(x, x.shape[-2:])
        return self.fc(self.dropout(x.reshape(x.shape[0], -1)))


class Conv1dNet(nn.Module):
    """A residual network over a signal of several channels, with dilation and 1-D pools."""

    def __init__(self, in_channels: int = 6, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(in_channels, channels, 7, 2, 3, bias=False), nn.BatchNorm1d(channels), nn.ReLU()
        )
        self.pool = nn.MaxPool1d(3, 2, 1)
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=2, dilation=2)
        self.bn1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1, groups=4)
        self.shrink = nn.AvgPool1d(2)
        self.final = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = functional.leaky_relu(self.bn1(self.conv1(x)), 0.1) + x
        x = self.shrink(torch.tanh(self.conv2(x)))
        return self.fc(self.final(x).squeeze(-1))


class Autoencoder(nn.Module):
    """Dense autoencoder of machine sounds (the anomaly-detection network of MLPerf Tiny)."""

    def __init__(self, features: int = 640, hidden: int = 128, bottleneck: int = 8) -> None:
        super().__init__()
        sizes = [features, *[hidden] * 4, bottleneck, *[hidden] * 4]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class EncoderBlock(nn.Module):
    """Layer norm, softmax attention, GELU MLP; both with a shortcut (Dosovitskiy et al. 2020)."""

    def __init__(self, features: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(features)
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)
        self.norm2 = nn.LayerNorm(features)
        self.fc1 = nn.Linear(features, 2 * features)
        self.fc2 = nn.Linear(2 * features, features)

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, features = x.shape
        head_size = features // self.num_heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (batch, head, token, head_size) each
        weights = ((query @ key.transpose(-2, -1)) * head_size**-0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, features))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class SmallViT(nn.Module):
    """Patch convolution, class token, position embedding, encoder blocks, linear head."""

    def __init__(
        self, size: int = 32, patch: int = 8, features: int = 48, num_blocks: int = 2, classes: int = 10
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, features, patch, patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, features))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, features))
        self.blocks = nn.Sequential(*(EncoderBlock(features, 3) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
