"""The loss of training: labels and a teacher."""

import pytest
import torch
from torch import nn

from haqnas.train.loss import loss_of


def test_loss_weighs_labels_and_the_teacher() -> None:
    outputs, labels = [torch.randn(6, 4)], torch.arange(6) % 4
    taught = loss_of(outputs, outputs, labels, distillation=1.0, temperature=2.0)
    assert float(taught) == pytest.approx(0.0, abs=1e-6)
    alone = loss_of(outputs, None, labels, distillation=0.0, temperature=2.0)
    assert float(alone) == pytest.approx(float(nn.functional.cross_entropy(outputs[0], labels)))
    both = loss_of(outputs, outputs, labels, distillation=0.25, temperature=2.0)
    assert float(both) == pytest.approx(0.75 * float(alone), rel=1e-5)
