"""Batch-norm statistics measured anew: after weights or architecture changed, running averages are wrong."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from haqnas.errors import ConfigurationError


def reestimate_batch_norm(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> nn.Module:
    """A copy of `model` whose batch norms hold the mean and variance of `batches`, averaged over them.

    All else runs in eval mode (no dropout). Raises ConfigurationError without batches or without batch norms.
    """
    if not batches:
        raise ConfigurationError("batch-norm statistics need at least one batch of inputs, but got none")
    measured = copy.deepcopy(model).eval()
    norms = [m for m in measured.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise ConfigurationError(
            "the model has no batch norm with running statistics; re-estimate before batch norms are folded"
        )
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            measured(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return measured.train(model.training)
