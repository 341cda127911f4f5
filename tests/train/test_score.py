import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from haqnas.errors import ConfigurationError
from haqnas.train.score import score_agreement, score_top1


class Constant(nn.Module):
    """Gives its input times a factor; as a tuple, as graphs do."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.factor * x,)


def test_top1_counts_greatest_outputs() -> None:
    scores, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert score_top1(Constant(), TensorDataset(scores, labels), 3) == 0.75


def test_top1_of_images_and_of_nothing_are_configuration_errors() -> None:
    with pytest.raises(ConfigurationError, match="evaluate"):
        score_top1(Constant(), TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2)), 2)
    with pytest.raises(ConfigurationError, match="empty"):
        score_top1(Constant(), TensorDataset(torch.zeros(0, 3), torch.zeros(0)), 2)


def test_agreement_of_classes_is_the_share_of_equal_ones() -> None:
    batches = [(torch.eye(4),), (torch.eye(4),)]
    assert score_agreement(Constant(), Constant(2.0), batches) == 1.0
    assert score_agreement(Constant(-1.0), Constant(), batches) == 0.0


def test_agreement_of_images_is_explained_variance() -> None:
    batches = [(torch.randn(2, 3, 8, 8),)]
    assert score_agreement(Constant(), Constant(), batches) == 1.0
    assert score_agreement(Constant(0.9), Constant(), batches) == pytest.approx(0.99, abs=1e-3)
    assert score_agreement(Constant(-1.0), Constant(), batches) == 0.0


def test_agreement_needs_batches() -> None:
    with pytest.raises(ConfigurationError):
        score_agreement(Constant(), Constant(), [])
