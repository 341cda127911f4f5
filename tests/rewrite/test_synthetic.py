import numpy as np
import pytest
import torch
from torch import nn

from haqnas.errors import ConfigurationError
from haqnas.nn import Choice
from haqnas.rewrite.batch_norm import reestimate_batch_norm
from haqnas.rewrite.synthetic import synthetic_batches


def network() -> nn.Sequential:
    """Trained statistics of inputs with mean 2 and deviation 3, which a fit must find again."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    inputs = 2 + 3 * torch.randn(64, 3, 12, 12)
    measured = reestimate_batch_norm(model, [(inputs,)])
    assert isinstance(measured, nn.Sequential)
    return measured.eval()


def test_inputs_match_the_statistics_of_batch_norm() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = synthetic_batches(model, (torch.zeros(1, 3, 12, 12),), np.random.default_rng(0), 40)
    assert [batch[0].shape[0] for batch in batches] == [16, 16, 8]
    values = torch.cat([batch[0] for batch in batches])
    assert 1.0 < float(values.mean()) < 3.0
    assert 2.0 < float(values.std()) < 4.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_same_seed_gives_the_same_inputs() -> None:
    model, example = network(), (torch.zeros(1, 3, 12, 12),)
    first, second = (synthetic_batches(model, example, np.random.default_rng(5), 8)[0][0] for _ in range(2))
    assert torch.equal(first, second)


def test_without_batch_norm_inputs_look_like_the_example() -> None:
    example = (5 + 2 * torch.randn(1, 400), torch.zeros(1, 3))
    ((x, y),) = synthetic_batches(nn.Linear(400, 3), example, np.random.default_rng(0), 16)
    assert float(x.mean()) == pytest.approx(5, abs=0.5)
    assert float(x.std()) == pytest.approx(2, abs=0.3)
    assert float(y.std()) == pytest.approx(1, abs=0.4)


def test_batch_norms_of_branches_that_are_not_taken_say_nothing() -> None:
    model = Choice(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))).eval()
    example = torch.zeros(1, 3, 12, 12)
    batches = synthetic_batches(model, (example,), np.random.default_rng(0), 8)
    assert sum(len(batch[0]) for batch in batches) == 8


def test_reestimation_measures_the_batches_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4)).eval()
    batches = [(torch.randn(50, 4) * 2 + 1,), (torch.randn(50, 4) * 2 + 1,)]
    measured = reestimate_batch_norm(model, batches)
    wanted = torch.stack([batch[0].mean(0) for batch in batches]).mean(0)
    assert torch.allclose(measured.get_buffer("0.running_mean"), wanted, atol=1e-5)
    assert torch.equal(model.get_buffer("0.running_mean"), torch.zeros(4))
    assert not measured.training


def test_reestimation_needs_batches_and_batch_norms() -> None:
    with pytest.raises(ConfigurationError, match="at least one batch"):
        reestimate_batch_norm(nn.BatchNorm1d(4), [])
    with pytest.raises(ConfigurationError, match="no batch norm"):
        reestimate_batch_norm(nn.Linear(4, 4), [(torch.randn(2, 4),)])
