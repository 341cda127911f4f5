"""What the tests of training share: a small network, trained on digits, and its data."""

import functools
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import canonical_graph

TRAIN_COUNT = 1200


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_bn = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.second, self.second_bn = nn.Conv2d(12, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first_bn(self.first(x)))
        x = F.relu(self.second_bn(self.second(x)))
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True)
class Lesson:
    canonical: GraphModule
    train_data: TensorDataset
    test_images: Tensor
    test_labels: Tensor
    batches: list[tuple[Tensor, ...]]

    def calibrated(self, bits: str) -> GraphModule:
        return calibrate(quantize(self.canonical, Policy(QuantSpec.parse(bits))), self.batches)

    def accuracy(self, graph: nn.Module) -> float:
        with torch.no_grad():
            return float((graph(self.test_images)[0].argmax(1) == self.test_labels).float().mean())


@functools.cache
def digits_lesson() -> Lesson:
    """The same each time."""
    digits = load_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = torch.randperm(len(digits.target))
        images = (torch.from_numpy(digits.images).float().unsqueeze(1) / 16)[order]
        labels = torch.from_numpy(digits.target).long()[order]
        train = images[:TRAIN_COUNT], labels[:TRAIN_COUNT]
        model = _trained(Digits(), *train).eval()
        canonical = canonical_graph(model, (1, 8, 8))
    batches = [(part,) for part in train[0][:256].split(64)]
    return Lesson(canonical, TensorDataset(*train), images[TRAIN_COUNT:], labels[TRAIN_COUNT:], batches)


def _trained(model: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Digits that are another image each time they are read, as augmenting data sets are."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[index]
        return image + 0.01 * torch.randn(image.shape), label
