"""Fake quantization that trains: values against brevitas' rule, gradients against a plain chain of torch operators."""

import pytest
import torch
from torch import Tensor

from haqnas.rewrite.straight_through import STEP_SAMPLES, quantize_activation, quantize_weight


def round_straight(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def reference(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """LSQ in operators that autograd knows: what is outside the range is clipped before it is rounded."""
    return round_straight((x / step).clamp(low, high)) * step


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-7, 8), (0, 255)])
def test_activation_has_the_values_and_gradients_of_the_plain_chain(low: int, high: int) -> None:
    step = torch.tensor(0.19)
    x = torch.randn(STEP_SAMPLES, 3, 5, 5) * 1.3
    weights = torch.randn_like(x)
    results = []
    for function in (quantize_activation, reference):
        given, learned = x.clone().requires_grad_(), step.clone().requires_grad_()
        value = function(given, learned, low, high)
        (value * weights).sum().backward()
        results.append((value.detach(), given.grad, learned.grad))
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


def test_gradient_of_a_step_is_estimated_from_part_of_a_large_batch() -> None:
    x = torch.randn(64 * STEP_SAMPLES, 50)
    gradients = []
    for function in (quantize_activation, reference):
        step = torch.tensor(0.5, requires_grad=True)
        function(x, step, 0, 3).square().sum().backward()
        gradients.append(float(step.grad))  # type: ignore[arg-type]
    assert gradients[0] == pytest.approx(gradients[1], rel=0.2)
    assert gradients[0] != gradients[1]


@pytest.mark.parametrize("high", [1, 7, 127])
def test_weight_has_the_values_and_gradients_of_the_plain_chain(high: int) -> None:
    weight, step = torch.randn(4, 3, 3, 3), torch.tensor([0.1, 0.2, 0.5, 1.0]).reshape(4, 1, 1, 1)
    weights = torch.randn_like(weight)
    results = []
    for is_mine in (True, False):
        given, learned = weight.clone().requires_grad_(), step.clone().requires_grad_()
        value = (
            quantize_weight(given, learned, high, False)
            if is_mine
            else reference(given, learned, -high, high)
        )
        (value * weights).sum().backward()
        results.append((value.detach(), given.grad, learned.grad))
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


def test_binary_weights_are_the_step_with_the_sign_of_the_weight() -> None:
    weight = torch.tensor([[-0.1, 0.2, -3.0, 0.0]], requires_grad=True)
    step = torch.tensor([[0.5]], requires_grad=True)
    value = quantize_weight(weight, step, 1, True)
    assert value.tolist() == [[-0.5, 0.5, -0.5, 0.5]]
    value.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 1.0, 0.0, 1.0]]


def test_bfloat16_activations_stay_bfloat16_and_exact() -> None:
    step = torch.tensor(0.25)
    x = (torch.randn(4, 8) * 3).bfloat16()
    value = quantize_activation(x, step, 0, 15)
    assert value.dtype == torch.bfloat16
    assert torch.equal(value.float(), (x.float() / 0.25).round().clamp(0, 15) * 0.25)
