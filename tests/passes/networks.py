"""Two networks that compile in seconds: one with batch norm, one with a residual sum and two inputs."""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Small(nn.Module):
    """Batch norm, and a view that names the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x).mean((2, 3))
        return self.linear(features.view(x.size(0), -1))


class Joined(nn.Module):
    """Two inputs, two outputs, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.side = nn.Linear(5, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(image))
        y = torch.relu(y + self.second(y))
        joined = y.mean((2, 3)) + torch.relu(self.side(facts))
        return self.head(joined), joined


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = Small().train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, 1, 6, 6))  # statistics of its own
    return network.eval()


def joined(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Joined().eval()


def images(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def joined_inputs(count: int) -> tuple[Tensor, Tensor]:
    return images(count, 2, 6, 6), images(count, 5, seed=2)


class Pairs(TensorDataset):
    """Samples ((image, facts), label)."""

    def __init__(self, count: int) -> None:
        super().__init__(*joined_inputs(count))

    def __getitem__(self, index: int):
        return super().__getitem__(index), 0
