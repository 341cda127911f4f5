"""Smaller kernels by the centre of greater ones."""

import pytest
import torch
from torch import nn

from haqnas.graph.kernel_size import crop_kernel, kernel_sizes


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(4, 4, 7, padding=3), (7, 5, 3)),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), (5, 3)),
        (nn.Conv2d(4, 4, 7, padding=1), (7, 5)),  # at 3 the outputs would see less than the image
        (nn.Conv2d(4, 4, 5, padding=1, dilation=2), ()),
        (nn.Conv2d(4, 4, 5, padding=4, dilation=2), (5, 3)),
        (nn.Conv2d(4, 4, 5), ()),
        (nn.Conv2d(4, 4, 3, padding=1), ()),
        (nn.Conv2d(4, 4, 6, padding=3), ()),
        (nn.Conv2d(4, 4, (1, 7), padding=(0, 3)), ()),
        (nn.Conv1d(4, 4, 7, padding=3), (7, 5, 3)),
        (nn.ConvTranspose2d(4, 4, 5, padding=2), ()),
        (nn.Linear(4, 4), ()),
    ],
)
def test_sizes_that_leave_the_output_as_large(layer, expected):
    assert kernel_sizes(layer) == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_crop_is_the_kernel_with_a_border_of_zeros(stride, dilation):
    layer = nn.Conv2d(3, 6, 7, stride, 3 * dilation, dilation, groups=3)
    x = torch.randn(2, 3, 15, 16)
    for size in (5, 3):
        border = (7 - size) // 2
        cropped = crop_kernel(layer, size, {})
        with torch.no_grad():
            zeroed = torch.zeros_like(layer.weight)
            inner = slice(border, 7 - border)
            zeroed[..., inner, inner] = layer.weight[..., inner, inner]
            expected = nn.functional.conv2d(x, zeroed, layer.bias, stride, 3 * dilation, dilation, groups=3)
            assert torch.allclose(cropped(x), expected, atol=1e-5)
        assert cropped.kernel_size == (size, size)
        assert layer.kernel_size == (7, 7)


def test_centres_are_transformed_one_after_the_other():
    layer = nn.Conv2d(2, 2, 7, padding=3)
    five, three = torch.randn(25, 25), torch.randn(9, 9)
    centre = (layer.weight[..., 1:6, 1:6].flatten(2) @ five.T).reshape(2, 2, 5, 5)
    expected = (centre[..., 1:4, 1:4].flatten(2) @ three.T).reshape(2, 2, 3, 3)
    assert torch.allclose(crop_kernel(layer, 5, {5: five, 3: three}).weight, centre)
    assert torch.allclose(crop_kernel(layer, 3, {5: five, 3: three}).weight, expected, atol=1e-6)
