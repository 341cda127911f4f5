"""The integer operators `haqnas::*`: exact in PyTorch, and the specification of every kernel.

Notation: `x` activations, uint8, real value = scale * (x - zero_point); `weight` int8, symmetric per output
channel; `bias` int32, in units of the accumulator; `scale` float32, one per output channel:
input scale * weight scale / output scale. `act_bits` and `weight_bits` say how many bits x and weight use.

Every accumulator becomes an output in one way (`requantize`): float32(accumulator) * scale, one IEEE multiply;
round half to even; add the zero point; clamp. There is no float addition, so no compiler can contract it
into a fused multiply-add, and x86, Arm and RISC-V give the same integers.

The file is longer than others, as it is one page of the specification: operators that are read against each other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, library
from torch.nn import functional

from haqnas.graph.windows import (
    BILINEAR_BITS,
    Window,
    adaptive_windows,
    average_factors,
    average_windows,
    bilinear_taps,
    nearest_indices,
)

FLOAT32_EXACT = 2**24  # integers up to here are exact in float32, in any order of summation


def requantize(accumulator: Tensor, scale: Tensor, zero_point: int, low: int, high: int) -> Tensor:
    """Turn an exact integer accumulator (any integer or float64 dtype) into uint8."""
    scaled = torch.round(accumulator.to(torch.int32).to(torch.float32) * scale)
    return (torch.clamp(scaled, low - zero_point, high - zero_point) + zero_point).to(torch.uint8)


def _exact_dtype(weight: Tensor, reduced: Sequence[int]) -> torch.dtype:
    """float32 where no partial sum can leave its exact integers, else float64."""
    bound = 255 * int(weight.abs().to(torch.int64).sum(dim=list(reduced)).max()) if weight.numel() else 0
    return torch.float32 if bound < FLOAT32_EXACT else torch.float64


def _per_channel(values: Tensor, rank: int) -> Tensor:
    return values.reshape([1, -1] + [1] * (rank - 2))


def conv2d_accumulator(
    x: Tensor,  # (n, in_channels, h, w) uint8
    weight: Tensor,  # (out_channels, in_channels / groups, kh, kw) int8
    bias: Tensor,  # (out_channels,) int32
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    in_zero_point: int,
) -> Tensor:
    """Exact int32 accumulator (n, out_channels, oh, ow); padding is real zero."""
    dtype = _exact_dtype(weight, (1, 2, 3))
    centred = x.to(dtype) - in_zero_point
    total = functional.conv2d(
        centred, weight.to(dtype), None, tuple(stride), tuple(padding), tuple(dilation), groups
    )
    return total.to(torch.int32) + _per_channel(bias, 4)


def conv_transpose2d_accumulator(
    x: Tensor,  # (n, in_channels, h, w) uint8
    weight: Tensor,  # (in_channels, out_channels / groups, kh, kw) int8
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    in_zero_point: int,
) -> Tensor:
    """Exact int32 accumulator of a transposed convolution."""
    dtype = _exact_dtype(weight, (0, 2, 3))
    centred = x.to(dtype) - in_zero_point
    total = functional.conv_transpose2d(
        centred,
        weight.to(dtype),
        None,
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
    )
    return total.to(torch.int32) + _per_channel(bias, 4)


def linear_accumulator(x: Tensor, weight: Tensor, bias: Tensor, in_zero_point: int) -> Tensor:
    """Exact int32 accumulator (..., out_features) of x (..., in_features) and weight (out, in)."""
    dtype = _exact_dtype(weight, (1,))
    total = functional.linear(x.to(dtype) - in_zero_point, weight.to(dtype))
    return total.to(torch.int32) + bias


@library.custom_op("haqnas::quantize", mutates_args=())
def quantize(x: Tensor, inverse_scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """float32 -> uint8: round half to even of x * float32(inverse_scale), plus zero point, clamped."""
    factor = torch.tensor(inverse_scale, dtype=torch.float32)
    scaled = torch.clamp(torch.round(x * factor), low - zero_point, high - zero_point)
    return (scaled + zero_point).to(torch.uint8)


@library.custom_op("haqnas::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """uint8 -> float32: one multiply of the exact difference."""
    return (x.to(torch.int32) - zero_point).to(torch.float32) * torch.tensor(scale, dtype=torch.float32)


@library.custom_op("haqnas::qconv2d", mutates_args=())
def qconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    weight_bits: int,
    act_bits: int,
    in_zero_point: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Convolution with fused requantization; `low` and `high` also carry a fused ReLU or ReLU6."""
    total = conv2d_accumulator(x, weight, bias, stride, padding, dilation, groups, in_zero_point)
    return requantize(total, _per_channel(scale, 4), out_zero_point, low, high)


@library.custom_op("haqnas::qconv2d_dequantize", mutates_args=())
def qconv2d_dequantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    weight_bits: int,
    act_bits: int,
    in_zero_point: int,
) -> Tensor:
    """Convolution to float32: accumulator * scale, where scale = input scale * weight scale."""
    total = conv2d_accumulator(x, weight, bias, stride, padding, dilation, groups, in_zero_point)
    return total.to(torch.float32) * _per_channel(scale, 4)


@library.custom_op("haqnas::qconv_transpose2d", mutates_args=())
def qconv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    weight_bits: int,
    act_bits: int,
    in_zero_point: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Transposed convolution with fused requantization."""
    total = conv_transpose2d_accumulator(
        x, weight, bias, stride, padding, output_padding, dilation, groups, in_zero_point
    )
    return requantize(total, _per_channel(scale, 4), out_zero_point, low, high)


@library.custom_op("haqnas::qconv_transpose2d_dequantize", mutates_args=())
def qconv_transpose2d_dequantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    weight_bits: int,
    act_bits: int,
    in_zero_point: int,
) -> Tensor:
    """Transposed convolution to float32."""
    total = conv_transpose2d_accumulator(
        x, weight, bias, stride, padding, output_padding, dilation, groups, in_zero_point
    )
    return total.to(torch.float32) * _per_channel(scale, 4)


@library.custom_op("haqnas::qlinear", mutates_args=())
def qlinear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    weight_bits: int,
    act_bits: int,
    in_zero_point: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Linear layer on the last dimension, with fused requantization."""
    total = linear_accumulator(x, weight, bias, in_zero_point)
    return requantize(total, scale, out_zero_point, low, high)


@library.custom_op("haqnas::qlinear_dequantize", mutates_args=())
def qlinear_dequantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    weight_bits: int,
    act_bits: int,
    in_zero_point: int,
) -> Tensor:
    """Linear layer to float32."""
    return linear_accumulator(x, weight, bias, in_zero_point).to(torch.float32) * scale


@library.custom_op("haqnas::qadd", mutates_args=())
def qadd(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    a_multiplier: int,
    b_zero_point: int,
    b_multiplier: int,
    shift: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """a + b (broadcasting) in fixed point: ((a - za) * ma + (b - zb) * mb + 2**(shift-1)) >> shift.

    The caller chooses multipliers of at most 16 bits (with the sign) so that the sum stays below 2**31.
    """
    assert max(abs(a_multiplier), abs(b_multiplier)) < 2**15, "kernels multiply 16-bit numbers"
    left = (a.to(torch.int32) - a_zero_point) * a_multiplier
    right = (b.to(torch.int32) - b_zero_point) * b_multiplier
    rounded = (left + right + (1 << (shift - 1))) >> shift
    return torch.clamp(rounded + out_zero_point, low, high).to(torch.uint8)


@library.custom_op("haqnas::qmul", mutates_args=())
def qmul(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    scale: float,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """a * b (broadcasting); scale = a scale * b scale / output scale."""
    product = (a.to(torch.int32) - a_zero_point) * (b.to(torch.int32) - b_zero_point)
    return requantize(product, torch.tensor(scale, dtype=torch.float32), out_zero_point, low, high)


@library.custom_op("haqnas::qtable", mutates_args=())
def qtable(x: Tensor, table: Tensor) -> Tensor:
    """Any function of one activation: table (256,) uint8, looked up by x. Also changes of scale."""
    return table[x.to(torch.int64)]


@library.custom_op("haqnas::qmax_pool2d", mutates_args=())
def qmax_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """Maximum over windows; keeps scale and zero point; padding never wins."""
    pooled = functional.max_pool2d(
        x.to(torch.float32), tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), ceil_mode
    )
    return pooled.to(torch.uint8)


def _windowed_average(
    x: Tensor,
    rows: Sequence[Window],
    columns: Sequence[Window],
    scale: float,
    in_zero_point: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    centred = x.to(torch.int64) - in_zero_point
    sums = functional.pad(centred, (1, 0, 1, 0)).cumsum(2).cumsum(3)
    top, bottom = (torch.tensor([r[i] for r in rows]) for i in (0, 1))
    left, right = (torch.tensor([c[i] for c in columns]) for i in (0, 1))
    total = (
        sums[:, :, bottom][:, :, :, right]
        - sums[:, :, top][:, :, :, right]
        - sums[:, :, bottom][:, :, :, left]
        + sums[:, :, top][:, :, :, left]
    )
    return requantize(total, average_factors(rows, columns, scale), out_zero_point, low, high)


@library.custom_op("haqnas::qavg_pool2d", mutates_args=())
def qavg_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    scale: float,
    in_zero_point: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Average over windows; scale = input scale / output scale; the divisor is folded into the multiply."""
    rows, columns = (
        average_windows(x.shape[2 + i], kernel[i], stride[i], padding[i], ceil_mode, count_include_pad)
        for i in (0, 1)
    )
    return _windowed_average(x, rows, columns, scale, in_zero_point, out_zero_point, low, high)


@library.custom_op("haqnas::qadaptive_avg_pool2d", mutates_args=())
def qadaptive_avg_pool2d(
    x: Tensor,
    out_h: int,
    out_w: int,
    scale: float,
    in_zero_point: int,
    out_zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Adaptive average; (1, 1) is the mean over the image."""
    rows, columns = adaptive_windows(x.shape[2], out_h), adaptive_windows(x.shape[3], out_w)
    return _windowed_average(x, rows, columns, scale, in_zero_point, out_zero_point, low, high)


@library.custom_op("haqnas::qupsample_nearest2d", mutates_args=())
def qupsample_nearest2d(x: Tensor, out_h: int, out_w: int) -> Tensor:
    """Nearest-neighbour resize; keeps scale and zero point."""
    rows = torch.tensor(nearest_indices(x.shape[2], out_h))
    columns = torch.tensor(nearest_indices(x.shape[3], out_w))
    return x[:, :, rows][:, :, :, columns].clone()


@library.custom_op("haqnas::qupsample_bilinear2d", mutates_args=())
def qupsample_bilinear2d(x: Tensor, out_h: int, out_w: int, align_corners: bool) -> Tensor:
    """Bilinear resize with weights of BILINEAR_BITS bits; keeps scale and zero point."""
    one = 2**BILINEAR_BITS
    row_taps = bilinear_taps(x.shape[2], out_h, align_corners)
    column_taps = bilinear_taps(x.shape[3], out_w, align_corners)
    top, bottom, down = (torch.tensor([t[i] for t in row_taps]) for i in range(3))
    left, right, across = (torch.tensor([t[i] for t in column_taps]) for i in range(3))
    wide = x.to(torch.int64)
    horizontal = wide[:, :, :, left] * (one - across) + wide[:, :, :, right] * across
    down = down.reshape(-1, 1)
    total = horizontal[:, :, top] * (one - down) + horizontal[:, :, bottom] * down
    rounded: Tensor = (total + (1 << (2 * BILINEAR_BITS - 1))) >> (2 * BILINEAR_BITS)
    return rounded.to(torch.uint8)


# Shapes for tracing: those of the float operator that each integer one stands for.


@quantize.register_fake
def _(x, *_):  # type: ignore[no-untyped-def]
    return x.to(torch.uint8)


@dequantize.register_fake
def _(x, *_):  # type: ignore[no-untyped-def]
    return x.to(torch.float32)


def _fake_conv(dtype: torch.dtype):  # type: ignore[no-untyped-def]
    def fake(x, weight, _bias, _scale, stride, padding, dilation, groups, *_):  # type: ignore[no-untyped-def]
        out = functional.conv2d(x.float(), weight.float(), None, stride, padding, dilation, groups)
        return out.to(dtype)

    return fake


def _fake_conv_transpose(dtype: torch.dtype):  # type: ignore[no-untyped-def]
    def fake(x, weight, _bias, _scale, stride, padding, output_padding, dilation, groups, *_):  # type: ignore[no-untyped-def]
        out = functional.conv_transpose2d(
            x.float(), weight.float(), None, stride, padding, output_padding, groups, dilation
        )
        return out.to(dtype)

    return fake


def _fake_linear(dtype: torch.dtype):  # type: ignore[no-untyped-def]
    def fake(x, weight, *_):  # type: ignore[no-untyped-def]
        return x.new_empty([*x.shape[:-1], weight.shape[0]], dtype=dtype)

    return fake


for _dtype, _conv, _transposed, _linear in (
    (torch.uint8, qconv2d, qconv_transpose2d, qlinear),
    (torch.float32, qconv2d_dequantize, qconv_transpose2d_dequantize, qlinear_dequantize),
):
    _conv.register_fake(_fake_conv(_dtype))
    _transposed.register_fake(_fake_conv_transpose(_dtype))
    _linear.register_fake(_fake_linear(_dtype))


@qadd.register_fake
@qmul.register_fake
def _(a, b, *_):  # type: ignore[no-untyped-def]
    return torch.empty_like(a + b)


@qtable.register_fake
def _(x, _table):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@qmax_pool2d.register_fake
def _(x, kernel, stride, padding, dilation, ceil_mode):  # type: ignore[no-untyped-def]
    pooled = functional.max_pool2d(x.float(), kernel, stride, padding, dilation, ceil_mode)
    return pooled.to(torch.uint8)


@qavg_pool2d.register_fake
def _(x, kernel, stride, padding, ceil_mode, count_include_pad, *_):  # type: ignore[no-untyped-def]
    pooled = functional.avg_pool2d(x.float(), kernel, stride, padding, ceil_mode, count_include_pad)
    return pooled.to(torch.uint8)


@qadaptive_avg_pool2d.register_fake
@qupsample_nearest2d.register_fake
@qupsample_bilinear2d.register_fake
def _(x, out_h, out_w, *_):  # type: ignore[no-untyped-def]
    return x.new_empty([*x.shape[:2], out_h, out_w])
