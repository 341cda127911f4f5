"""Every row of the kernel table equals the reference operators, bit for bit, on its instruction set.

The cases come from the table: a row cannot exist without being tested. Odd shapes, extreme values and zero points,
all weight bits. One binary holds all cases of a row.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from haqnas.codegen.lower import fused_sums, lower
from haqnas.codegen.storage import signed_values
from haqnas.graph import ops  # noqa: F401  registers the operators
from haqnas.hardware import HardwareProfile, load_profile
from haqnas.kernels.row import Geometry, Kernel, with_any_ending
from haqnas.kernels.table import TABLE, candidates, select
from haqnas.quantspec import act_range, weight_range
from tests.codegen.one_binary import integer_graph, run
from tests.conftest import require_program
from tests.kernels.tile_emulator import TILE_FEATURES, missing_features

haqnas = torch.ops.haqnas

# A profile that executes each instruction set; "portable" also runs on RISC-V, which has nothing else.
PROFILES = {
    "amx-int8": ("x86-amx",),
    "avx512-vbmi": ("x86-amx",),
    "avx512-vnni": ("x86-avx512-vnni",),
    "avx2": ("x86-64-v3",),
    "neon-i8mm": ("neoverse-v1",),
    "neon-dotprod": ("cortex-a76",),
    "neon": ("cortex-a53",),
    "rvv": ("riscv64-v",),
    "portable": ("riscv64", "arm-cpu"),
}

# (in channels, out channels, height, width, kernel h, kernel w, stride, padding, dilation, groups)
SHAPES = {
    "dot": (
        (3, 10, 9, 7, 3, 3, 1, 1, 1, 1),
        (1, 40, 13, 10, 10, 4, 2, 1, 1, 1),
        (3, 16, 12, 17, 3, 3, 2, 1, 1, 1),
        (16, 33, 8, 8, 3, 3, 2, 1, 1, 1),
        (64, 16, 5, 11, 1, 1, 1, 0, 1, 1),
        (32, 48, 7, 19, 1, 1, 1, 0, 1, 1),
        (33, 37, 6, 6, 1, 1, 2, 0, 1, 1),
        (7, 64, 12, 9, 5, 3, 1, 2, 2, 1),
        (128, 70, 3, 17, 3, 3, 1, 1, 1, 1),
        (12, 24, 4, 9, 3, 3, 1, 1, 1, 1),
        (100, 45, 1, 1, 1, 1, 1, 0, 1, 1),
        (64, 32, 1, 1, 1, 1, 1, 0, 1, 1),
        (36, 200, 1, 1, 1, 1, 1, 0, 1, 1),
        (24, 150, 3, 3, 3, 3, 1, 0, 1, 1),
        (256, 24, 3, 7, 3, 3, 1, 1, 1, 1),
    ),
    "depthwise": (
        (5, 5, 9, 7, 3, 3, 1, 1, 1, 5),
        (48, 48, 8, 5, 5, 5, 2, 2, 1, 48),
        (17, 17, 6, 6, 3, 3, 1, 2, 2, 17),
        (24, 24, 5, 13, 3, 3, 1, 1, 1, 24),
        (11, 11, 9, 9, 3, 3, 2, 1, 1, 11),
        (8, 8, 3, 35, 3, 3, 1, 1, 1, 8),
        (32, 32, 5, 9, 3, 3, 1, 2, 2, 32),
        (72, 72, 7, 3, 5, 5, 1, 2, 1, 72),
        (130, 130, 5, 9, 3, 3, 2, 1, 1, 130),
        (64, 64, 9, 9, 7, 6, 1, 3, 1, 64),
        (16, 16, 9, 15, 5, 5, 1, 2, 1, 16),
        (24, 24, 8, 10, 5, 3, 2, 1, 1, 24),
    ),
    "grouped": (
        (8, 12, 7, 5, 3, 3, 1, 1, 1, 4),
        (6, 18, 5, 5, 3, 1, 2, 1, 1, 6),
        (20, 10, 4, 4, 1, 1, 1, 0, 1, 2),
    ),
}


def shipped_profile(name: str) -> HardwareProfile:
    return load_profile(Path(str(resources.files("haqnas.hw_profiles") / f"{name}.toml")))


def profile_of(row: Kernel, name: str) -> HardwareProfile:
    return dataclasses.replace(shipped_profile(name), isas=() if row.isa == "portable" else (row.isa,))


def require_machine(profile: HardwareProfile) -> None:
    if profile.emulator is not None:
        require_program(profile.emulator.program)
    elif missing := sorted(missing_features(profile) - TILE_FEATURES):
        pytest.skip(f"this machine's CPU lacks {', '.join(missing)}")


class Layers(nn.Module):
    """Convolutions side by side, each with its own input (its own activation bits).

    After these inputs come the images that cases with a sum add.
    """

    def __init__(self, cases: Sequence[dict]):
        super().__init__()
        self.cases = cases
        for index, case in enumerate(cases):
            for name in ("weight", "bias", "scale"):
                self.register_buffer(f"{name}{index}", case[name])

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        outputs = []
        images = iter(inputs[len(self.cases) :])
        for i in range(len(self.cases)):
            case = self.cases[i]
            x = haqnas.quantize(inputs[i], 1.0, 0, 0, act_range(case["act_bits"])[1])
            weight, bias, scale = (getattr(self, f"{name}{i}") for name in ("weight", "bias", "scale"))
            common = (
                x,
                weight,
                bias,
                scale,
                *case["window"],
                case["weight_bits"],
                case["act_bits"],
                case["zero_point"],
            )
            if case["is_float"]:
                outputs.append(haqnas.qconv2d_dequantize(*common))
            else:
                outputs.append(haqnas.qconv2d(*common, *case["clamp"]))
            if "sum" in case:
                image = haqnas.quantize(next(images), 1.0, 0, 0, 255)
                outputs[-1] = haqnas.qadd(outputs[-1], image, *case["sum"])
        return outputs


def make_case(
    shape: tuple[int, ...], weight_bits: int, act_bits: int, kind: str, rng: np.random.Generator
) -> dict:
    inputs, outputs, height, width, kh, kw, stride, padding, dilation, groups = shape
    low, high = weight_range(weight_bits)
    act_max = act_range(act_bits)[1]
    size = (outputs, inputs // groups, kh, kw)
    if weight_bits == 1 or kind == "extreme":
        weight = rng.choice([low, high], size)
    else:
        weight = rng.integers(low, high + 1, size)
    x = rng.integers(0, act_max + 1, (1, inputs, height, width))
    if kind == "extreme":
        x = np.full_like(x, act_max)
        x[..., ::2] = rng.choice([0, act_max])
    spread = act_max * high * np.sqrt(inputs / groups * kh * kw)
    stretch = {"beyond int16": 300, "beyond int32": 1e9}.get(kind, 1)  # of accumulator * scale
    case = {
        "x": x.astype(np.uint8),
        "weight": torch.from_numpy(weight.astype(np.int8)),
        "bias": torch.from_numpy(rng.integers(-spread, spread + 1, outputs).astype(np.int32)),
        "scale": torch.from_numpy((rng.uniform(10, 200, outputs) / spread * stretch).astype(np.float32)),
        "window": ([stride, stride], [padding, padding], [dilation, dilation], groups),
        "weight_bits": weight_bits,
        "act_bits": act_bits,
        "zero_point": int(rng.choice([0, act_max, act_max // 2])),
        "clamp": (int(rng.integers(0, 256)), int(rng.choice([0, 0, 9])), int(rng.choice([255, 255, 200]))),
        "is_float": bool(rng.random() < 0.25),
    }
    if groups == 1 and not case["is_float"] and rng.random() < 0.5:
        case["sum"] = make_sum(case["clamp"][0], rng)
        rows, columns = (
            (e + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for e, k in ((height, kh), (width, kw))
        )
        case["image"] = rng.integers(0, 256, (1, outputs, rows, columns)).astype(np.uint8)
    # Products that lie between two integers, exactly (0.5) or once rounded to float32 (0.9): who rounds product and sum
    # at once gets these wrong.
    if kind == "halves":
        case["weight"] = torch.from_numpy(rng.integers(-1, 2, size).astype(np.int8))
        case["x"] = rng.integers(0, 4, x.shape).astype(np.uint8)
        case["bias"] = torch.from_numpy(rng.integers(-99, 100, outputs).astype(np.int32))
        case["scale"] = torch.from_numpy(rng.choice([0.5, 0.9], outputs).astype(np.float32))
    return case


def greatest_case(weight_bits: int, act_bits: int, width: int, rng: np.random.Generator) -> dict:
    """Nothing but greatest activations and weights of one sign, many of them: where narrow sums overflow first."""
    case = make_case((2592, 17, 1, width, 1, 1, 1, 0, 1, 1), weight_bits, act_bits, "random", rng)
    low, high = weight_range(weight_bits)
    weight = np.full(case["weight"].shape, high, np.int8)
    weight[::3] = low
    case |= {"weight": torch.from_numpy(weight), "x": np.full_like(case["x"], act_range(act_bits)[1])}
    case |= {"is_float": True, "zero_point": 0}  # float outputs show every bit of a sum
    case.pop("sum", None)
    case.pop("image", None)
    return case


def make_sum(zero_point: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Scalars of `haqnas::qadd`: shifts short and long, also a zero point that is not the convolution's."""
    shift = int(rng.choice([1, 8, 14, 15, 16, 20, 22, 23, 30]))
    most = min(2**15, 2**shift)
    multipliers = [int(m) for m in rng.integers(-most + 1, most, 2)]
    own = int(rng.choice([zero_point, zero_point, 77]))
    low, high = int(rng.choice([0, 0, 9])), int(rng.choice([255, 255, 200]))
    return (
        own,
        multipliers[0],
        int(rng.integers(0, 256)),
        multipliers[1],
        shift,
        int(rng.choice([0, 130])),
        low,
        high,
    )


def forced(row: Kernel):
    """Choose `row`, or a form of a row, wherever it accepts the layer."""

    def choose(geometry: Geometry, isas: Sequence[str]) -> Kernel:
        names = [found.name for found in candidates(geometry, [row.isa])]
        return row if row.name in names else select(geometry, isas)

    return choose


ROWS = [(row, name) for row in TABLE for name in PROFILES[row.isa]]


@pytest.mark.parametrize(("row", "profile_name"), ROWS, ids=[f"{row.name}-{name}" for row, name in ROWS])
def test_row_equals_the_reference(row, profile_name, tmp_path):
    profile = profile_of(row, profile_name)
    require_machine(profile)
    rng = np.random.default_rng(17)
    bits = itertools.cycle([(8, 8), (1, 2), (2, 4), (3, 8), (4, 4), (5, 8), (6, 6), (7, 3)])
    cases = [
        make_case(shape, *next(bits), kind, rng)
        for kind, shape in itertools.product(("random", "extreme", "random"), SHAPES[row.kind])
    ]
    cases += [make_case(shape, 8, 8, "extreme", rng) for shape in SHAPES[row.kind]]
    cases += [
        make_case(shape, 8, 8, kind, rng)
        for kind in ("beyond int16", "beyond int32", "halves")
        for shape in SHAPES[row.kind][:3]
    ]
    if row.kind == "dot":
        bits = itertools.product(row.weight_bits, row.act_bits)
        cases += [greatest_case(w, a, width, rng) for w, a in bits for width in (1, 5)]
    check_row(row, cases, profile, tmp_path)


SPECIAL = [(row, name) for row, name in ROWS if row.isa not in {"portable", "rvv"} and not row.is_general]


@pytest.mark.parametrize(
    ("row", "profile_name"), SPECIAL, ids=[f"{row.name}-{name}" for row, name in SPECIAL]
)
def test_row_with_any_ending_equals_the_reference(row, profile_name, tmp_path):
    profile = profile_of(row, profile_name)
    require_machine(profile)
    rng = np.random.default_rng(19)
    bits = itertools.cycle([(8, 8), (4, 4), (2, 5), (3, 8)])
    kinds = itertools.cycle(("random", "extreme", "beyond int16", "beyond int32"))
    cases = [make_case(shape, *next(bits), next(kinds), rng) for shape in SHAPES[row.kind]]
    graph, _ = side_by_side(cases)
    layers = lower(graph, profile, "net", forced(row)).layers
    served = [case for case, layer in zip(cases, layers, strict=True) if layer.kernel.startswith(row.name)]
    # Only the ending differs from what the test above checks on all shapes: four cover the four kinds.
    check_row(with_any_ending(row), served[:4], profile, tmp_path)


def check_row(row: Kernel, cases: Sequence[dict], profile: HardwareProfile, folder: Path) -> None:
    graph, raw = side_by_side(cases)
    expected = graph(*(torch.from_numpy(x.astype(np.float32)) for x in raw))
    program, outputs = run(graph, raw, profile, folder, forced(row))
    assert any(layer.kernel.startswith(row.name) for layer in program.layers), "the row served no case"
    for case, output, reference in zip(cases, outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference.numpy(), err_msg=f"{row.name} {case['window']}")


class Chain(nn.Module):
    """Layers that read each other: images between them may be stored signed."""

    def __init__(self, cases: Sequence[dict]):
        super().__init__()
        self.cases = cases
        for index, case in enumerate(cases):
            for name in ("weight", "bias", "scale"):
                self.register_buffer(f"{name}{index}", case[name])

    def forward(self, x0: Tensor) -> Tensor:
        x = haqnas.quantize(x0, 1.0, 0, 0, 255)
        zero_point = 0
        for i in range(len(self.cases)):
            case = self.cases[i]
            weight, bias, scale = (getattr(self, f"{name}{i}") for name in ("weight", "bias", "scale"))
            bits = (case["weight_bits"], case["act_bits"])
            y = haqnas.qconv2d(x, weight, bias, scale, *case["window"], *bits, zero_point, *case["clamp"])
            zero_point = case["clamp"][0]
            if "sum" in case:
                y = haqnas.qadd(y, x, *case["sum"])
                zero_point = case["sum"][5]
            x = y
        return x


# (in channels, out channels, kernel, stride, padding, groups); those that keep the shape add their input.
CHAIN = (
    (3, 20, 3, 1, 1, 1),
    (20, 20, 3, 1, 1, 1),
    (20, 33, 3, 2, 1, 1),
    (33, 33, 1, 1, 0, 1),
    (33, 33, 3, 1, 1, 33),
    (33, 16, 1, 1, 0, 1),
    (16, 32, 5, 2, 2, 1),
    (32, 40, 3, 1, 0, 1),
    (40, 40, 1, 1, 0, 1),
)


def make_chain(rng: np.random.Generator) -> list[dict]:
    cases, size = [], 15
    for inputs, outputs, kernel, stride, padding, groups in CHAIN:
        shape = (inputs, outputs, size, size, kernel, kernel, stride, padding, 1, groups)
        case = make_case(shape, 8, 8, "random", rng)
        case.pop("sum", None)
        if inputs == outputs and groups == 1:
            case["sum"] = make_sum(case["clamp"][0], rng)
        cases.append(case)
        size = (size + 2 * padding - kernel) // stride + 1
    return cases


SIGNED = [(row, name) for row, name in ROWS if row.can_be_signed]


@pytest.mark.parametrize(("row", "profile_name"), SIGNED, ids=[f"{row.name}-{name}" for row, name in SIGNED])
def test_row_equals_the_reference_on_signed_images(row, profile_name, tmp_path):
    profile = dataclasses.replace(shipped_profile(profile_name), isas=tuple({row.isa: 0, "neon": 0}))
    require_machine(profile)
    cases = make_chain(np.random.default_rng([row.name == other.name for other in TABLE].index(True)))
    raw = cases[0]["x"]
    inputs = torch.from_numpy(raw.astype(np.float32))
    graph = integer_graph(Chain(cases), [inputs])
    assert len(signed_values(graph.graph, fused_sums(graph.graph), profile.isas)) >= len(CHAIN) - 2
    _, (output,) = run(graph, [raw], profile, tmp_path, forced(row))
    (expected,) = graph(inputs)
    np.testing.assert_array_equal(output, expected.numpy())


def side_by_side(cases: Sequence[dict]) -> tuple[fx.GraphModule, list[np.ndarray]]:
    """One graph of all cases, and its raw inputs."""
    raw = [case["x"] for case in cases] + [case["image"] for case in cases if "image" in case]
    inputs = [torch.from_numpy(x.astype(np.float32)) for x in raw]
    return integer_graph(_spelled_out(Layers(cases), len(raw)), inputs), raw


def _spelled_out(layers: nn.Module, count: int) -> nn.Module:
    """A module whose forward names its inputs x0, x1 ...: what symbolic tracing needs."""
    names = ", ".join(f"x{i}" for i in range(count))
    namespace: dict = {}
    exec(f"def forward(self, {names}):\n    return self.layers({names})", namespace)
    spelled = type("SpelledOut", (nn.Module,), {"forward": namespace["forward"]})()
    spelled.layers = layers
    return spelled
