"""Networks whose output is an image: U-Net with transposed convolution or upsampling, DCGAN's generator."""

import torch
from torch import Tensor, nn


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Two levels down and up with concatenated shortcuts (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 8, upsampling: str = "transposed", classes: int = 2) -> None:
        super().__init__()
        self.down1 = double_conv(3, width)
        self.down2 = double_conv(width, 2 * width)
        self.bottom = double_conv(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = self._up(4 * width, 2 * width, upsampling)
        self.conv2 = double_conv(4 * width, 2 * width)
        self.up1 = self._up(2 * width, width, "nearest" if upsampling == "bilinear" else upsampling)
        self.conv1 = double_conv(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _up(in_channels: int, out_channels: int, upsampling: str) -> nn.Module:
        if upsampling == "transposed":
            return nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
        if upsampling == "bilinear":
            resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        else:
            resize = nn.Upsample(scale_factor=2, mode="nearest")
        return nn.Sequential(resize, nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        level1 = self.down1(x)
        level2 = self.down2(self.pool(level1))
        x = self.bottom(self.pool(level2))
        x = self.conv2(torch.cat([level2, self.up2(x)], dim=1))
        x = self.conv1(torch.cat([level1, self.up1(x)], dim=1))
        return self.head(x)


class DcganGenerator(nn.Module):
    """Noise to an image by transposed convolutions, batch norm and tanh (Radford et al. 2015)."""

    def __init__(self, noise: int = 32, width: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = noise
        for out_channels, stride, padding in ((4 * width, 1, 0), (2 * width, 2, 1), (width, 2, 1)):
            layers.append(nn.ConvTranspose2d(channels, out_channels, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU(True)]
            channels = out_channels
        layers += [nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)
