"""Inputs to calibrate on when the user gives no data: noise, fitted to the network's batch-norm statistics.

The idea is that of ZeroQ (arXiv 2001.00281): on real data the inputs of each batch norm have its running mean and
variance, so inputs under which they do look like real data to the network. Without batch norm the noise itself is used.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

Batch = tuple[Tensor, ...]

BATCH_SIZE = 16
GREATEST_NUM_STEPS = 16
LEAST_NUM_STEPS = 4
LEARNING_RATE = 0.25  # in deviations of the noise it starts from
BUDGET_FLOPS = 1.5e11  # of all optimisation steps: about five seconds on two cores
VARIATION = 0.1  # noise, in deviations, on shifted copies of fitted inputs
BACKWARD_FACTOR = 3  # a step costs about three forwards
SMOOTHNESS = 0.7  # share of low frequencies in image noise: neighbouring pixels of real images are alike
VARIANCE_FLOOR = 1e-5


def synthetic_batches(
    model: nn.Module, example_inputs: Batch, rng: np.random.Generator, count: int
) -> tuple[Batch, ...]:
    """`count` inputs in batches of up to 16, (n, ...) each, for `model`, which stays unchanged.

    `model` may be the user's module or a canonical graph; only one that still has batch norms is fitted. Takes
    seconds: the network's cost decides how many inputs are fitted, and in how many steps, so the result is the same
    on every machine. Where these are fewer than `count`, the others are shifted copies of them with some noise.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return _split(tuple(_noise(example, count, generator) for example in example_inputs))
    fitted = copy.deepcopy(model).eval().requires_grad_(False)
    num_fitted, num_steps = _effort(fitted, example_inputs, count)
    start = tuple(_noise(example, num_fitted, generator) for example in example_inputs)
    batches = [_fit(fitted, batch, num_steps) for batch in _split(start)]
    found = tuple(torch.cat(column) for column in zip(*batches, strict=True))
    return _split(tuple(_varied(part, count, generator) for part in found))


def _split(inputs: Batch) -> tuple[Batch, ...]:
    return tuple(zip(*(torch.split(part, BATCH_SIZE) for part in inputs), strict=True))


def _varied(fitted: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The fitted inputs, then shifted copies of them up to `count`."""
    copies = [fitted]
    while sum(len(part) for part in copies) < count:
        dims = tuple(range(2, fitted.ndim))
        shifts = [int(torch.randint(fitted.shape[dim], (), generator=generator)) for dim in dims]
        moved = torch.roll(fitted, shifts, dims) if dims else fitted
        noise = torch.randn(fitted.shape, generator=generator)
        copies.append(moved + VARIATION * fitted.std() * noise if fitted.is_floating_point() else moved)
    return torch.cat(copies)[:count]


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


def _effort(model: nn.Module, example_inputs: Batch, count: int) -> tuple[int, int]:
    """How many inputs to fit, and in how many steps."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*example_inputs)
    affordable = BUDGET_FLOPS / (max(counter.get_total_flops(), 1) * BACKWARD_FACTOR)  # steps of one input
    num_fitted = int(min(max(affordable // LEAST_NUM_STEPS, 1), count))
    return num_fitted, int(min(max(affordable // num_fitted, LEAST_NUM_STEPS), GREATEST_NUM_STEPS))


def _fit(model: nn.Module, batch: Batch, num_steps: int) -> Batch:
    inputs = [part.clone().requires_grad_(part.is_floating_point()) for part in batch]
    groups = [
        {"params": [part], "lr": LEARNING_RATE * max(float(part.detach().std()), VARIANCE_FLOOR)}
        for part in inputs
        if part.requires_grad
    ]
    optimizer = torch.optim.Adam(groups)
    for _ in range(num_steps):
        optimizer.zero_grad()
        with (
            torch.enable_grad(),
            _statistics_losses(model) as losses,
        ):  # also where the caller works without gradients
            model(*inputs)
            if not losses:  # batch norms of branches that are not taken
                return batch
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
