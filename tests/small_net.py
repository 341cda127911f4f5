"""A network of two layers, for tests of what stands around networks."""

import torch
from torch import nn


class Net(nn.Module):
    """(n, 2, h, w) -> (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))
