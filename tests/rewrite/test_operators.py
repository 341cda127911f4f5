"""Each supported operator, quantized: integers all through, near the float result and the simulated one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.rewrite.pipeline import run_stages, signal_to_noise_db


class Between(nn.Module):
    """An operator between two convolutions, which make it part of an integer region."""

    def __init__(self, operator, channels: int = 6, out_channels: int = 6) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, channels, 3, padding=1)
        self.operator = operator
        self.after = nn.Conv2d(out_channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operator(self.before(x)))


OPERATORS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "abs": torch.abs,
    "scalar_add": lambda x: x + 0.5,
    "scalar_multiply": lambda x: x * -1.5,
    "add": lambda x: x + F.relu(x),
    "subtract": lambda x: x - F.relu(x),
    "add_relu": lambda x: F.relu(x + torch.tanh(x)),
    "multiply": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "square": lambda x: x * x,
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool_ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_pool_dilated": lambda x: F.max_pool2d(x, 2, 1, 0, 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "avg_pool_padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_without_pad": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool_ceil": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 3),
    "mean_keepdim": lambda x: x.mean((2, 3), keepdim=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear_aligned": lambda x: F.interpolate(x, size=(9, 5), mode="bilinear", align_corners=True),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "slice": lambda x: x[:, :, ::2, 1:5],
    "flip_of_halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "channel_shuffle": lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
    "transpose_pixels": lambda x: x.transpose(2, 3),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_between_layers_is_integer_and_close_to_float(name: str) -> None:
    stages = run_stages(Between(OPERATORS[name]), (3, 8, 8))
    wanted, fake, given = stages.outputs()
    assert all(operator.startswith("haqnas") or _moves_data(operator) for operator in stages.operators())
    assert signal_to_noise_db(wanted, given) > 28
    assert signal_to_noise_db(fake, given) > 38


def _moves_data(operator: str) -> bool:
    return operator in {
        f"aten.{name}" for name in ("reshape", "permute", "slice", "cat", "constant_pad_nd", "clone")
    }


LAYERS = {
    "conv2d": (nn.Conv2d(4, 6, 3, 2, 1), (4, 9, 7)),
    "conv2d_dilated": (nn.Conv2d(4, 6, 3, 1, 2, dilation=2), (4, 9, 7)),
    "conv2d_rectangular": (nn.Conv2d(4, 6, (1, 5), (2, 1), (0, 2)), (4, 9, 7)),
    "conv2d_grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 7)),
    "conv2d_depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (4, 9, 7)),
    "conv1d": (nn.Conv1d(4, 6, 5, 2, 2), (4, 16)),
    "conv1d_depthwise": (nn.Conv1d(4, 4, 3, groups=4, dilation=2), (4, 16)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 4, 2, 1), (4, 5, 5)),
    "conv_transpose2d_output_padding": (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), (4, 5, 5)),
    "conv_transpose2d_grouped": (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (4, 5, 5)),
    "linear": (nn.Linear(10, 6), (10,)),
    "linear_without_bias": (nn.Linear(10, 6, bias=False), (10,)),
    "linear_of_sequence": (nn.Linear(10, 6), (5, 10)),
    "linear_of_grid": (nn.Linear(10, 6), (3, 5, 10)),
}


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w2a4", "w1a2"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_matches_its_simulation(name: str, bits: str) -> None:
    layer, shape = LAYERS[name]
    stages = run_stages(nn.Sequential(layer, nn.ReLU()), shape, bits=bits)
    _, fake, given = stages.outputs()
    step = stages.integer.meta["output_steps"][0]
    assert (fake - given).abs().max() <= 1.01 * step  # a tie may round the other way
    assert ((fake - given).abs() > 0.1 * step).double().mean() < 0.01


@pytest.mark.parametrize("name", LAYERS)
def test_layer_before_the_output_is_not_rounded(name: str) -> None:
    layer, shape = LAYERS[name]
    stages = run_stages(layer, shape)
    _, fake, given = stages.outputs()
    assert any(operator.endswith("_dequantize") for operator in stages.operators())
    assert signal_to_noise_db(fake, given) > 60


def test_mean_of_a_sequence_is_integer() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(F.relu(self.conv(x)).mean(2))

    stages = run_stages(Mean(), (3, 20))
    wanted, _, given = stages.outputs()
    assert "haqnas.qadaptive_avg_pool2d" in stages.operators()
    assert signal_to_noise_db(wanted, given) > 28


def test_relu_is_the_clamp_of_the_layer_before_it() -> None:
    stages = run_stages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3)), (3, 8, 8))
    assert stages.operators() == ["haqnas.quantize", "haqnas.qconv2d", "haqnas.qconv2d_dequantize"]


def test_integer_graph_runs_at_any_batch_size() -> None:
    stages = run_stages(Between(OPERATORS["channel_shuffle"]), (3, 8, 8))
    (x,) = stages.inputs
    together = stages.integer(x)[0]
    apart = torch.cat([stages.integer(x[i : i + 1])[0] for i in range(len(x))])
    assert torch.equal(together, apart)
