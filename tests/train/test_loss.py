"""The loss of training: labels and a teacher."""

import pytest
import torch
from torch import nn

from haqnas.train.loss import Mixed, has_classes, loss_of


def test_loss_weighs_labels_and_the_teacher() -> None:
    outputs, labels = [torch.randn(6, 4)], torch.arange(6) % 4
    taught = loss_of(outputs, outputs, labels, distillation=1.0, temperature=2.0)
    assert float(taught) == pytest.approx(0.0, abs=1e-6)
    alone = loss_of(outputs, None, labels, distillation=0.0, temperature=2.0)
    assert float(alone) == pytest.approx(float(nn.functional.cross_entropy(outputs[0], labels)))
    both = loss_of(outputs, outputs, labels, distillation=0.25, temperature=2.0)
    assert float(both) == pytest.approx(0.75 * float(alone), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels_are_those_of_torch(smoothing: float) -> None:
    outputs, labels = [torch.randn(6, 4)], torch.arange(6) % 4
    given = loss_of(outputs, None, labels, distillation=0.0, temperature=2.0, label_smoothing=smoothing)
    assert torch.equal(given, nn.functional.cross_entropy(outputs[0], labels, label_smoothing=smoothing))


def test_mixed_labels_are_learned_by_their_shares() -> None:
    outputs, first, second = [torch.randn(6, 4)], torch.arange(6) % 4, torch.arange(6) % 3
    mixed = Mixed(first, second, 0.3)
    assert has_classes(outputs[0], mixed)
    assert not has_classes(outputs[0], Mixed(first.float(), second.float(), 0.3))
    given = loss_of(outputs, None, mixed, distillation=0.0, temperature=2.0, label_smoothing=0.1)
    soft = 0.3 * nn.functional.one_hot(first, 4) + 0.7 * nn.functional.one_hot(second, 4)
    wanted = nn.functional.cross_entropy(outputs[0], 0.9 * soft + 0.1 / 4)
    assert float(given) == pytest.approx(float(wanted), rel=1e-5)
