"""Inputs to calibrate on when the user gives no data: noise, fitted to the network's batch-norm statistics.

The idea is that of ZeroQ (arXiv 2001.00281): on real data the inputs of each batch norm have its running mean and
variance, so inputs under which they do look like real data to the network. Without batch norm the noise itself is used.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

Batch = tuple[Tensor, ...]

BATCH_SIZE = 16
GREATEST_NUM_STEPS = 24
LEARNING_RATE = 0.1
BUDGET_FLOPS = 4e11  # of all optimisation steps: a few seconds on two cores
BACKWARD_FACTOR = 3  # a step costs about three forwards
SMOOTHNESS = 0.7  # share of low frequencies in image noise: neighbouring pixels of real images are alike
VARIANCE_FLOOR = 1e-5


def synthetic_batches(
    model: nn.Module, example_inputs: Batch, rng: np.random.Generator, count: int
) -> tuple[Batch, ...]:
    """`count` inputs in batches of 16, (n, ...) each, for `model`, which stays unchanged.

    `model` may be the user's module or a canonical graph; only one that still has batch norms is fitted. Takes
    seconds: the number of steps follows from the network's cost, so it is the same on every machine.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    sizes = [min(BATCH_SIZE, count - start) for start in range(0, count, BATCH_SIZE)]
    batches = [tuple(_noise(example, size, generator) for example in example_inputs) for size in sizes]
    if not any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()):
        return tuple(batches)
    fitted = copy.deepcopy(model).eval().requires_grad_(False)
    num_steps = _num_steps(fitted, batches)
    return tuple(_fit(fitted, batch, num_steps) for batch in batches)


def _noise(example: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Noise with the example's shape, mean and deviation (1 where the example is constant); images get smooth."""
    shape = (size, *example.shape[1:])
    if not example.is_floating_point():
        indices = torch.randint(example.numel(), shape, generator=generator)
        return example.flatten()[indices]
    noise = torch.randn(shape, generator=generator)
    if example.ndim == 4 and min(example.shape[2:]) >= 8:
        smooth = functional.avg_pool2d(functional.pad(noise, (3, 3, 3, 3), mode="circular"), 7, 1)
        noise = (1 - SMOOTHNESS) * noise + SMOOTHNESS * smooth / smooth.std()
        noise = noise / noise.std()
    deviation = float(example.std()) if example.numel() > 1 else 0.0
    return float(example.mean()) + (deviation or 1.0) * noise


def _num_steps(model: nn.Module, batches: Sequence[Batch]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*(part[:1] for part in batches[0]))
    samples = sum(batch[0].shape[0] for batch in batches)
    cost = max(counter.get_total_flops(), 1) * samples * BACKWARD_FACTOR
    return int(min(GREATEST_NUM_STEPS, BUDGET_FLOPS // cost))


def _fit(model: nn.Module, batch: Batch, num_steps: int) -> Batch:
    if num_steps == 0:
        return batch
    inputs = [part.clone().requires_grad_(part.is_floating_point()) for part in batch]
    optimizer = torch.optim.Adam([part for part in inputs if part.requires_grad], LEARNING_RATE)
    for _ in range(num_steps):
        optimizer.zero_grad()
        with _statistics_losses(model) as losses:
            model(*inputs)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return tuple(part.detach() for part in inputs)


@contextmanager
def _statistics_losses(model: nn.Module) -> Iterator[list[Tensor]]:
    """While open, forwards add to the list how far each batch norm's input is from its running statistics."""
    losses: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        reduced = [dim for dim in range(inputs[0].ndim) if dim != 1]
        variance, mean = torch.var_mean(inputs[0], reduced, correction=0)
        assert module.running_mean is not None
        assert module.running_var is not None
        deviation = (module.running_var + VARIANCE_FLOOR).sqrt()
        shift = (mean - module.running_mean) / deviation
        spread = (variance + VARIANCE_FLOOR).sqrt() / deviation - 1
        losses.append(shift.square().mean() + spread.square().mean())

    tracked = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    handles = [module.register_forward_pre_hook(record) for module in tracked]
    try:
        yield losses
    finally:
        for handle in handles:
            handle.remove()
