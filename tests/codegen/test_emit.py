"""Emitted C: its text, its checks, and the quantize function of the header against haqnas::quantize."""

import ctypes
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import haqnas.graph.ops  # noqa: F401  registers the haqnas:: operators
from haqnas.codegen.emit import cpu_features, emit_sources
from haqnas.codegen.header import inverse_scale
from haqnas.codegen.program import Call, Pointer, Program, Region, TensorInfo
from haqnas.codegen.selftest import SelfTest, fnv1a, make_self_test, self_test_input
from haqnas.errors import ConfigurationError
from haqnas.hardware import ARCH_CPU_FEATURES
from tests.runtime.tiny import (
    MODEL,
    THREADED_MODEL,
    threaded_program,
    tiny_program,
    tiny_self_test,
    write_threaded,
    write_tiny,
)

ZIG = [sys.executable, "-m", "ziglang"]
EXACT = SelfTest(output_hash=0)


def with_call(*arguments: Pointer | int) -> Program:
    return dataclasses.replace(tiny_program(), calls=(Call("kernel", arguments, ""),))


@pytest.mark.parametrize(("write", "folder"), [(write_tiny, MODEL), (write_threaded, THREADED_MODEL)])
def test_the_model_of_the_c_tests_is_what_emit_writes(
    tmp_path: Path, write: Callable[[Path], tuple[Path, ...]], folder: Path
) -> None:
    for path in write(tmp_path):
        kept = (folder / path.name).read_bytes()
        assert re.sub(rb"\d+\.\d+\.\d+", version("haqnas").encode(), kept) == path.read_bytes(), (
            f"{path.name} differs: run python tests/runtime/tiny.py and look at the difference"
        )


@pytest.mark.parametrize("program", [tiny_program(), threaded_program()], ids=["one thread", "threads"])
@pytest.mark.parametrize("standard", ["c99", "c11", "c++11", "c++20"])
def test_header_is_clean_in_c_and_cpp(tmp_path: Path, standard: str, program: Program) -> None:
    emit_sources(program, tmp_path, EXACT)
    file = tmp_path / ("user.cpp" if "++" in standard else "user.c")
    file.write_text('#include "tiny.h"\n#include "tiny.h"\nint main(void) { return TINY_INPUT0_BYTES; }\n')
    compiler = [*ZIG, "c++" if "++" in standard else "cc", f"-std={standard}"]
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-c"]
    command = [*compiler, *flags, str(file), "-o", str(tmp_path / "user.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_text_in_names_survives_c(tmp_path: Path) -> None:
    name = 'a"b\\c??/é\n*/7'
    program = dataclasses.replace(
        tiny_program(), inputs=(TensorInfo(name, "uint8", (1, 8), 0.1, 0, 255), tiny_program().inputs[1])
    )
    emit_sources(program, tmp_path, EXACT)
    (tmp_path / "user.c").write_text(
        '#include <stdio.h>\n#include "tiny_model.c"\n'
        "int main(void) { return puts(TINY_INPUT0_NAME) < 0 || puts(tiny_model.info_json) < 0; }\n"
        "int tiny_run(const void *const *i, void *const *o, void *w) { (void)i, (void)o, (void)w; return 0; }\n"
        "const char *tiny_error_message(int s) { (void)s; return 0; }\n"
    )
    include = f"-I{MODEL.parents[2] / 'kernels' / 'runtime'}"
    subprocess.run(
        [*ZIG, "cc", "-target", "x86_64-linux-musl", "-std=c99", "-O2", include, "user.c", "-o", "user"],
        cwd=tmp_path,
        check=True,
    )
    macro, info = subprocess.run(
        [tmp_path / "user"], capture_output=True, text=True, check=True
    ).stdout.rsplit("\n", 2)[:2]
    assert macro == name
    assert json.loads(info)["inputs"][0]["name"] == name


def test_a_name_that_is_no_identifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"C identifier.*'my-model'"):
        emit_sources(dataclasses.replace(tiny_program(), name="my-model"), tmp_path, EXACT)


@pytest.mark.parametrize("name", ["haqnas", "haqnas_runtime", "HAQNAS"])
def test_a_name_of_the_runtime_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="belong to the runtime"):
        emit_sources(tiny_program(name), tmp_path, EXACT)


def test_an_unknown_cpu_feature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'avx10'; it knows .*dotprod"):
        emit_sources(tiny_program(required_cpu_features=("avx10",)), tmp_path, EXACT)


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    info = dataclasses.replace(tiny_program().inputs[0], scale=float("inf"))
    with pytest.raises(ConfigurationError, match="finite"):
        emit_sources(dataclasses.replace(tiny_program(), inputs=(info,)), tmp_path, EXACT)


@pytest.mark.parametrize(
    "argument",
    [
        Pointer(Region.WORKSPACE, 129),
        Pointer(Region.CONSTANTS, -1),
        Pointer(Region.INPUT, 0, 2),
        Pointer(Region.OUTPUT, 33, 0),
        2**31,
    ],
)
def test_arguments_outside_of_their_region_are_refused(tmp_path: Path, argument: Pointer | int) -> None:
    with pytest.raises(ValueError, match=r"outside|int32"):
        emit_sources(with_call(argument), tmp_path, EXACT)


def test_least_int32_is_no_overflow_in_c(tmp_path: Path) -> None:
    emit_sources(with_call(-(2**31)), tmp_path, EXACT)
    assert "kernel((-2147483647 - 1));" in (tmp_path / "tiny.c").read_text()


def test_a_kernel_called_in_two_ways_is_refused(tmp_path: Path) -> None:
    program = dataclasses.replace(
        tiny_program(), calls=(Call("k", (1,), ""), Call("k", (Pointer(Region.WORKSPACE),), ""))
    )
    with pytest.raises(ValueError, match="different kinds"):
        emit_sources(program, tmp_path, EXACT)


def test_the_runtime_detects_every_feature_that_a_profile_may_require() -> None:
    assert set(cpu_features()) >= {f for features in ARCH_CPU_FEATURES.values() for f in features}


# Quantize ---------------------------------------------------------------------------------------------------


def test_header_quantizes_as_the_operator_does(tmp_path: Path, rng: np.random.Generator) -> None:
    infos = tuple(
        TensorInfo(f"x{i}", "uint8", (1,), float(rng.uniform(1e-4, 3.0)), int(rng.integers(0, top + 1)), top)
        for i, top in enumerate([255, 255, 255, 15, 3, 127, 255, 63])
    )
    program = dataclasses.replace(tiny_program(), inputs=infos, calls=())
    emit_sources(program, tmp_path, EXACT)
    calls = "\n".join(
        f"void quantize{i}(const float *x, uint8_t *q, size_t n) {{ tiny_quantize_input{i}(x, q, n); }}"
        for i in range(len(infos))
    )
    (tmp_path / "user.c").write_text(f'#include "tiny.h"\n{calls}\n')
    library = tmp_path / "user.so"
    subprocess.run(
        [*ZIG, "cc", "-O2", "-fno-sanitize=undefined", "-shared", "-fPIC", "user.c", "-o", library],
        cwd=tmp_path,
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    for i, info in enumerate(infos):
        halves = (np.arange(-600, 600) / 2 * info.scale).astype(np.float32)  # ties, as near as float32 comes
        drawn = (rng.normal(size=5000) * 200 * info.scale).astype(np.float32)
        x = np.concatenate([halves, drawn, np.float32([0, -0.0, 1e38, -1e38, np.inf, -np.inf])])
        got = np.empty(x.size, np.uint8)
        loaded[f"quantize{i}"](x.ctypes.data_as(ctypes.c_void_p), got.ctypes.data_as(ctypes.c_void_p), x.size)
        expected = torch.ops.haqnas.quantize(
            torch.from_numpy(x), inverse_scale(info), info.zero_point, 0, info.quant_max
        )
        np.testing.assert_array_equal(got, expected.numpy())


# Self test --------------------------------------------------------------------------------------------------


@given(count=st.integers(0, 300), index=st.integers(0, 5), quant_max=st.sampled_from([3, 15, 255]))
def test_made_up_input_follows_the_generator(count: int, index: int, quant_max: int) -> None:
    state, states = index + 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        states.append(state)
    integers = self_test_input(TensorInfo("x", "uint8", (count, 1), 1.0, 0, quant_max), index)
    assert integers.dtype == np.uint8
    assert integers.shape == (count, 1)
    assert integers.reshape(-1).tolist() == [(s >> 32) % (quant_max + 1) for s in states]
    floats = self_test_input(TensorInfo("x", "float32", (count,), 1.0, 0, 0), index)
    assert floats.dtype == np.float32
    assert floats.tolist() == [((s >> 40) - 2**23) / 2**23 for s in states]


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_hash_is_fnv1a(data: bytes, value: int) -> None:
    assert fnv1a(data) == value


def test_samples_are_spread_over_the_output() -> None:
    test = make_self_test([np.arange(1000, dtype=np.float32), np.zeros(3, np.uint8)], False, (0.5, 1.0))
    assert test.output_hash is None
    assert test.samples[0].values == tuple(float(k * 1000 // 256) for k in range(256))
    assert test.samples[1].values == (0.0, 0.0, 0.0)
    assert [sample.tolerance for sample in test.samples] == [0.5, 1.0]


def test_hash_covers_every_output_byte() -> None:
    program = tiny_program()
    whole = tiny_self_test(program)
    outputs = [np.zeros(4, np.float32), np.zeros(4, np.uint8)]
    changed = [outputs[0], np.array([0, 0, 0, 1], np.uint8)]
    assert make_self_test(outputs, True) != make_self_test(changed, True)
    assert whole.output_hash is not None


def test_samples_for_another_number_of_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 outputs"):
        emit_sources(tiny_program(is_exact=False), tmp_path, SelfTest(None, ()))
