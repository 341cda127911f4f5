"""Every integer operator's lowering equals the operator, bit for bit, on the host, Arm and RISC-V.

Each case is a function of one or two uint8 tensors; all cases of a target share one binary.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from haqnas.graph import ops  # noqa: F401  registers the operators
from tests.codegen.one_binary import integer_graph, run
from tests.kernels.test_table import require_machine, shipped_profile

haqnas = torch.ops.haqnas
aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(5)
TABLE = torch.randint(0, 256, (256,), dtype=torch.uint8, generator=GENERATOR)


def weights(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=GENERATOR)


def biases(count: int) -> Tensor:
    return torch.randint(-9999, 10000, (count,), dtype=torch.int32, generator=GENERATOR)


def scales(count: int, size: int) -> Tensor:
    return torch.rand(count, generator=GENERATOR) / size / 64


def transposed(
    groups: int, stride: int, padding: int, extra: int, dilation: int
) -> Callable[[Tensor], Tensor]:
    weight, bias, scale = weights(4, 6 // groups, 3, 3), biases(6), scales(6, 30)
    steps = ([stride] * 2, [padding] * 2, [extra] * 2, [dilation] * 2, groups)
    return lambda x: haqnas.qconv_transpose2d(x, weight, bias, scale, *steps, 8, 8, 7, 100, 0, 255)


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's channel shuffle between two convolutions."""
    split = aten.reshape.default(x, [1, 2, 2, 5, 6])
    return aten.reshape.default(aten.permute.default(split, [0, 2, 1, 3, 4]), [1, 4, 5, 6])


def convolution(x: Tensor, padding: int = 1) -> Tensor:
    """Four channels to six."""
    weight = torch.arange(6 * 4 * 9).remainder(251).sub(125).to(torch.int8).reshape(6, 4, 3, 3)
    bias, scale = torch.arange(6, dtype=torch.int32) * 100, torch.full((6,), 3e-4)
    return haqnas.qconv2d(x, weight, bias, scale, [1, 1], [padding] * 2, [1, 1], 1, 8, 8, 9, 80, 0, 255)


def sequence(x: Tensor) -> Tensor:
    """Two one-dimensional convolutions with a view of rank three between them."""
    weight = torch.arange(64).remainder(251).sub(32).to(torch.int8).reshape(4, 4, 1, 4)[..., :3].contiguous()
    bias, scale = torch.arange(4, dtype=torch.int32), torch.full((4,), 2e-3)
    for _ in range(2):
        image = aten.reshape.default(x, [1, 4, 1, 30])
        image = haqnas.qconv2d(image, weight, bias, scale, [1, 1], [0, 1], [1, 1], 1, 8, 8, 9, 9, 0, 255)
        x = aten.reshape.default(image, [1, 4, 30])
    return x


X = (1, 4, 5, 6)


def residual(x: Tensor) -> Tensor:
    """The sum of two convolutions, read by a third operator."""
    total = haqnas.qadd(convolution(x), convolution(x), 9, 1 << 14, 9, 1 << 14, 15, 9, 0, 255)
    return aten.slice.Tensor(total, 1, 2, 6)


CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "add": (lambda a, b: haqnas.qadd(a, b, 3, 1 << 14, 250, 24_305, 15, 17, 0, 255), (X, X)),
    "add broadcast": (
        lambda a, b: haqnas.qadd(a, b, 3, 1 << 14, 0, -24_305, 15, 17, 4, 250),
        (X, (1, 4, 1, 1)),
    ),
    "add rounds": (lambda a, b: haqnas.qadd(a, b, 0, 1, 0, 1, 1, 0, 0, 255), (X, X)),
    "mul": (lambda a, b: haqnas.qmul(a, b, 128, 3, 0.013, 128, 0, 255), (X, X)),
    "mul broadcast": (lambda a, b: haqnas.qmul(a, b, 0, 0, 1 / 255, 0, 0, 255), (X, (1, 4, 1, 1))),
    "table": (lambda x: haqnas.qtable(x, TABLE), (X,)),
    "table on rows": (lambda x: haqnas.qtable(x, TABLE), ((7, 9),)),
    "max pool": (lambda x: haqnas.qmax_pool2d(x, [3, 3], [2, 2], [1, 1], [1, 1], False), ((1, 33, 9, 8),)),
    "max pool dilated, ceil": (
        lambda x: haqnas.qmax_pool2d(x, [2, 3], [3, 2], [1, 1], [2, 2], True),
        ((1, 5, 9, 8),),
    ),
    "avg pool": (
        lambda x: haqnas.qavg_pool2d(x, [3, 3], [2, 2], [1, 1], False, True, 0.9, 20, 10, 0, 255),
        ((1, 17, 9, 8),),
    ),
    "avg pool ceil": (
        lambda x: haqnas.qavg_pool2d(x, [3, 2], [2, 2], [1, 0], True, False, 1.1, 20, 10, 0, 255),
        ((1, 3, 8, 9),),
    ),
    "global mean": (lambda x: haqnas.qadaptive_avg_pool2d(x, 1, 1, 1.7, 30, 2, 0, 255), ((1, 65, 7, 7),)),
    "global mean of many pixels": (  # more than 16-bit sums hold
        lambda x: haqnas.qadaptive_avg_pool2d(x, 1, 1, 1.7, 30, 2, 0, 255),
        ((1, 20, 20, 31),),
    ),
    "adaptive mean": (lambda x: haqnas.qadaptive_avg_pool2d(x, 3, 4, 1.0, 0, 0, 0, 255), ((1, 8, 7, 9),)),
    "nearest": (lambda x: haqnas.qupsample_nearest2d(x, 10, 13), (X,)),
    "bilinear": (lambda x: haqnas.qupsample_bilinear2d(x, 11, 7, False), (X,)),
    "bilinear corners": (lambda x: haqnas.qupsample_bilinear2d(x, 9, 12, True), ((1, 19, 5, 6),)),
    "reshape": (lambda x: aten.reshape.default(x, [1, 120]), (X,)),
    "flatten after a convolution": (lambda x: aten.reshape.default(convolution(x), [1, 180]), (X,)),
    "permute": (lambda x: aten.permute.default(x, [0, 2, 3, 1]), (X,)),
    "slice": (lambda x: aten.slice.Tensor(x, 1, 1, 3), (X,)),
    "strided slice": (lambda x: aten.slice.Tensor(aten.slice.Tensor(x, 2, 0, 5, 2), 3, 1, 6, 2), (X,)),
    "cat of channels": (lambda a, b: aten.cat.default([a, b, a], 1), (X, (1, 3, 5, 6))),
    "cat of rows": (lambda a, b: aten.cat.default([a, b], -2), (X, (1, 4, 2, 6))),
    "pad": (lambda x: aten.constant_pad_nd.default(x, [1, 2, 0, 3], 77), (X,)),
    "pad of channels": (lambda x: aten.constant_pad_nd.default(x, [0, 0, 0, 0, 2, 1], 9), (X,)),
    "crop": (lambda x: aten.constant_pad_nd.default(x, [-1, 2, 1, -2], 5), (X,)),
    "channel shuffle": (shuffled, (X,)),
    "shuffle into a convolution": (lambda x: convolution(shuffled(x)), (X,)),
    "convolution of a slice": (lambda x: convolution(aten.slice.Tensor(convolution(x), 1, 1, 5)), (X,)),
    "convolutions of a residual": (residual, (X,)),
    "one-dimensional": (sequence, ((1, 4, 30),)),
    "transposed": (transposed(1, 2, 1, 1, 1), (X,)),
    "transposed, grouped": (transposed(2, 3, 0, 2, 1), (X,)),
    "transposed, dilated": (transposed(1, 2, 3, 0, 2), (X,)),
    "transposed, cropped": (transposed(1, 1, 3, 0, 1), ((1, 4, 9, 9),)),
    "transposed, stride one": (transposed(2, 1, 1, 0, 1), (X,)),
    "dequantize": (lambda x: haqnas.dequantize(x, 0.037, 11), (X,)),
    "quantize": (lambda x: haqnas.quantize(haqnas.dequantize(x, 0.5, 128), 3.0, 100, 0, 255), (X,)),
}


def network(cases: list[str]) -> nn.Module:
    """All cases side by side; symbolic tracing needs inputs with names."""
    count = {name: len(CASES[name][1]) for name in cases}
    names = [f"x{i}_{k}" for i, name in enumerate(cases) for k in range(count[name])]
    lines = [f"def forward(self, {', '.join(names)}):"]
    for i, name in enumerate(cases):
        arguments = ", ".join(f"haqnas.quantize(x{i}_{k}, 1.0, 0, 0, 255)" for k in range(count[name]))
        lines.append(f"    y{i} = cases[{name!r}][0]({arguments})")
    lines.append(f"    return [{', '.join(f'y{i}' for i in range(len(cases)))}]")
    namespace: dict = {"haqnas": haqnas, "cases": CASES}
    exec("\n".join(lines), namespace)
    return type("Network", (nn.Module,), {"forward": namespace["forward"]})()


@pytest.mark.parametrize("target", ["x86-64-v3", "arm-cpu", "riscv64"])
def test_operators_equal_the_reference(target, tmp_path):
    profile = shipped_profile(target)
    require_machine(profile)
    names = list(CASES)
    rng = np.random.default_rng(3)
    arrays = [rng.integers(0, 256, shape).astype(np.uint8) for name in names for shape in CASES[name][1]]
    inputs = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
    graph = integer_graph(network(names), inputs)
    expected = graph(*inputs)
    _, outputs = run(graph, arrays, profile, tmp_path)
    for name, output, reference in zip(names, outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference.numpy(), err_msg=name)


def test_bilinear_reference_is_within_half_a_step_of_torch():
    x = torch.randint(0, 256, (1, 3, 7, 5), dtype=torch.uint8, generator=GENERATOR)
    for align in (False, True):
        real = functional.interpolate(x.float(), (13, 4), mode="bilinear", align_corners=align)
        integer = haqnas.qupsample_bilinear2d(x, 13, 4, align)
        assert (real - integer.float()).abs().max() <= 0.6
