"""Linking: the executable, the library and the TVM module of the tiny model, on the host and under emulators."""

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from haqnas.codegen.emit import emit_sources
from haqnas.codegen.link import (
    Linker,
    cache_home,
    choose_linker,
    is_first_use,
    link_archive,
    link_executable,
    link_tvm_library,
)
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.errors import DeviceError
from tests.codegen.tiny_build import HOST, RUNTIME_TESTS, Build, build, run
from tests.runtime.tiny import (
    WEIGHTS,
    tiny_program,
    tiny_reference,
    tiny_self_test,
)

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_RUNTIME_BYTES = 45_000  # of the 100 kB that the whole executable may exceed its constants by


def require(program: str, package: str) -> str:
    """Path of a build tool; as for the emulators, missing is a skip here and a failure in CI."""
    path = shutil.which(program)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{program} is not installed (apt install {package}); with CI set this is a failure")
    if path is None:
        pytest.skip(f"{program} is not installed (apt install {package})")
    return path


@pytest.fixture(scope="module")
def arm_needs_dotprod(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tiny_program(required_cpu_features=("asimd", "dotprod"))
    return build(tmp_path_factory.mktemp("arm"), "aarch64-linux-musl", program).executable()


# The executable ---------------------------------------------------------------------------------------------


def test_executable_runs_records_from_files(host: Build, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.integers(0, 101, (3, 8)).astype(np.uint8)
    bias = rng.normal(size=(3, 8)).astype(np.float32)
    x.tofile(tmp_path / "x.bin")
    bias.tofile(tmp_path / "bias.bin")
    run(host.executable(), tmp_path / "x.bin", tmp_path / "bias.bin", "-o", tmp_path / "out")
    expected = tiny_reference(x, bias)
    for index, output in enumerate(expected):
        assert (tmp_path / "out" / f"output{index}.bin").read_bytes() == output.tobytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["output0.bin", "output1.bin"]


def test_golden_agrees_between_python_and_c(host: Build) -> None:
    assert "every output byte" in run(host.executable(), "--golden").stdout


def test_golden_of_samples_agrees_between_python_and_c(tmp_path: Path) -> None:
    made = build(tmp_path, program=tiny_program(is_exact=False))
    assert "quantization step" in run(made.executable(), "--golden").stdout


def test_golden_finds_changed_constants(tmp_path: Path) -> None:
    """Also: the compiler's cache must not hand out the object with the old constants."""
    made = build(tmp_path)
    run(made.executable(), "--golden")
    expectation = tiny_self_test(made.program)
    emit_sources(replace(made.program, constants=WEIGHTS[::-1]), tmp_path, expectation)
    assert "golden mismatch" in run(made.executable(), "--golden", code=5).stderr


def test_bench_prints_one_json_object(host: Build) -> None:
    times = json.loads(run(host.executable(), "--bench", "7").stdout)
    assert times["model"] == "tiny"
    assert times["count"] == len(times["times_ns"]) == 7
    assert times["median_ns"] == sorted(times["times_ns"])[3]
    assert (times["min_ns"], times["max_ns"]) == (min(times["times_ns"]), max(times["times_ns"]))


def test_bench_sorts_many_times(host: Build) -> None:
    times = json.loads(run(host.executable(), "--bench", "1000").stdout)
    middle = sorted(times["times_ns"])[499:501]
    assert times["median_ns"] == sum(middle) // 2


def test_info_describes_inputs_and_outputs(host: Build) -> None:
    info = json.loads(run(host.executable(), "--info").stdout)
    assert info["inputs"][0] == {
        "name": "x",
        "dtype": "uint8",
        "shape": [1, 8],
        "scale": float(np.float32(0.05)),
        "zero_point": 3,
        "quant_max": 100,
        "size_bytes": 8,
    }
    assert [output["size_bytes"] for output in info["outputs"]] == [32, 8]
    assert info["workspace_bytes"] == 128
    assert info["is_exact"] is True


def test_executable_is_small_static_and_has_no_executable_stack(host: Build) -> None:
    data = host.executable().read_bytes()
    assert len(data) - len(WEIGHTS) < MAX_RUNTIME_BYTES
    start, size, count = (
        struct.unpack_from("<Q", data, 32)[0],
        *struct.unpack_from("<HH", data, 54),
    )
    headers = [struct.unpack_from("<II", data, start + i * size) for i in range(count)]
    assert not [kind for kind, _ in headers if kind in {2, 3}]  # PT_DYNAMIC, PT_INTERP
    stack = [flags for kind, flags in headers if kind == 0x6474E551]  # PT_GNU_STACK
    assert stack
    assert not stack[0] & 1


def test_equal_input_gives_equal_bytes(host: Build, tmp_path: Path) -> None:
    other = build(tmp_path)
    assert other.executable().read_bytes() == host.executable().read_bytes()


@pytest.mark.parametrize("name", ["cpu", "main", "math"])
def test_a_model_may_have_the_name_of_another_file(tmp_path: Path, name: str) -> None:
    made = build(tmp_path, program=tiny_program(name))
    run(made.executable(), "--golden")
    archive = link_archive(made.linker, name, made.kernels, tmp_path, tmp_path / f"lib{name}.a")
    members = run(sys.executable, "-m", "ziglang", "ar", "t", archive).stdout.split()
    assert len(set(members)) == 4


def test_a_compiler_of_the_user_links_too(tmp_path: Path) -> None:
    gcc = require("gcc", "gcc")
    made = build(tmp_path, cc=f"{gcc} -static")
    run(made.executable(), "--golden")


# Emulated machines ------------------------------------------------------------------------------------------


@pytest.mark.arm
@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_arm_cpu_with_the_feature_runs(arm_needs_dotprod: Path, qemu_aarch64: str, cpu: str) -> None:
    assert "ok" in run(qemu_aarch64, "-cpu", cpu, arm_needs_dotprod, "--golden").stdout


@pytest.mark.arm
@pytest.mark.parametrize("job", [["--golden"], ["--bench", "3"]])
def test_arm_cpu_without_the_feature_ends_with_a_message(
    arm_needs_dotprod: Path, qemu_aarch64: str, job: list[str]
) -> None:
    done = run(qemu_aarch64, "-cpu", "cortex-a53", arm_needs_dotprod, *job, code=4)
    assert "does not offer dotprod, which the model was compiled for" in done.stderr
    assert done.stdout == ""


@pytest.mark.riscv
def test_riscv_runs(tmp_path: Path, qemu_riscv64: str) -> None:
    assert "ok" in run(qemu_riscv64, build(tmp_path, "riscv64-linux-musl").executable(), "--golden").stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is of x86-64")
def test_amx_that_linux_refuses_ends_with_a_message(tmp_path: Path) -> None:
    made = build(tmp_path, program=tiny_program(required_cpu_features=("amx-tile", "amx-int8")))
    refuse = tmp_path / "refuse_amx"
    compiler = [
        *made.linker.command,
        "-target",
        HOST,
        "-static",
        "-O2",
    ]  # -O2: the libc that is built already
    subprocess.run([*compiler, RUNTIME_TESTS / "refuse_amx.c", "-o", refuse], check=True)
    done = run(refuse, made.executable(), "--golden", code=4)
    assert "does not offer amx-tile amx-int8" in done.stderr
    if "amx_int8" in Path("/proc/cpuinfo").read_text():
        run(made.executable(), "--golden")


# The library ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "threads"), [("host", ""), ("threaded", ', "threads": 4')])
def test_a_cmake_project_in_cpp_links_an_artefact(
    kind: str, threads: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    host: Build = request.getfixturevalue(kind)
    cmake = require("cmake", "cmake g++")
    require("g++", "g++")
    artefact, prefix, project = tmp_path / "artefact", tmp_path / "prefix", tmp_path / "project"
    for folder, file in (("include", host.folder / "tiny.h"), ("lib", host.folder / "lib" / "libtiny.a")):
        (artefact / folder).mkdir(parents=True)
        shutil.copy(file, artefact / folder)
    (artefact / "manifest.json").write_text(f'{{"schema": 1, "name": "tiny"{threads}}}')
    run(cmake, "-S", REPOSITORY, "-B", tmp_path / "haqnas", "-DBUILD_TESTING=OFF")
    run(cmake, "--install", tmp_path / "haqnas", "--prefix", prefix)
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(app CXX)\nfind_package(haqnas REQUIRED)\n"
        f"haqnas_add_artifact(digits {artefact})\nadd_executable(app app.cpp)\n"
        "target_link_libraries(app PRIVATE digits)\n"
    )
    (project / "app.cpp").write_text(
        '#include "tiny.h"\n#include <cstdio>\n'
        "alignas(TINY_WORKSPACE_ALIGNMENT) static unsigned char workspace[TINY_WORKSPACE_BYTES];\n"
        "int main() {\n  uint8_t x[8] = {2}, signs[8];\n  float bias[8] = {1}, scaled[8];\n"
        "  const void *in[] = {x, bias};\n  void *out[] = {scaled, signs};\n"
        "  const int status = tiny_run(in, out, workspace);\n"
        '  std::printf("%d %g %d\\n", status, scaled[0], signs[0]);\n'
        "}\n"
    )
    run(cmake, "-S", project, "-B", tmp_path / "app", f"-DCMAKE_PREFIX_PATH={prefix}")
    run(cmake, "--build", tmp_path / "app")
    assert run(tmp_path / "app" / "app").stdout == "0 65 1\n"
    # The same from the package as it is installed with haqnas, which needs no library target.
    text = (project / "CMakeLists.txt").read_text()
    (project / "CMakeLists.txt").write_text(
        text.partition("haqnas_add_artifact")[0]
        + f"add_executable(app app.cpp)\nhaqnas_add_model(app {artefact})\nadd_executable(other app.cpp)\n"
        + f"haqnas_add_model(other {artefact})\n"
    )
    run(cmake, "-S", project, "-B", tmp_path / "again", f"-Dhaqnas_DIR={REPOSITORY / 'cmake'}")
    run(cmake, "--build", tmp_path / "again")
    assert run(tmp_path / "again" / "other").stdout == "0 65 1\n"
    (artefact / "manifest.json").unlink()
    done = run(cmake, "-S", project, "-B", tmp_path / "app", code=1)
    assert "is no artefact: it has no manifest.json" in " ".join(done.stderr.split())


@pytest.mark.parametrize("kind", ["host", "threaded"])
def test_tvm_loads_the_shared_library(
    kind: str, request: pytest.FixtureRequest, rng: np.random.Generator
) -> None:
    import tvm  # slow to import, and only this test needs it

    host: Build = request.getfixturevalue(kind)
    output = host.folder / "lib" / "tiny.so"
    link_tvm_library(
        host.linker, "tiny", host.kernels, host.folder, output, is_threaded=host.program.threads > 1
    )
    module = tvm.runtime.load_module(str(output))
    x = rng.integers(0, 101, (1, 8)).astype(np.uint8)
    bias = rng.normal(size=(1, 8)).astype(np.float32)
    made = [tvm.runtime.tensor(np.zeros((1, 8), dtype)) for dtype in (np.float32, np.uint8)]
    inputs = [tvm.runtime.tensor(value) for value in (x, bias)]
    module["run"](*inputs, *made)
    for got, expected in zip(made, tiny_reference(x, bias), strict=True):
        np.testing.assert_array_equal(got.numpy(), expected)
    with pytest.raises(TypeError, match=r"takes 2 input\(s\) and 2 output\(s\), but got 3"):
        module["run"](*inputs, made[0])
    with pytest.raises(TypeError, match=r"argument 0 \(x\) must be uint8"):
        module["run"](inputs[1], inputs[1], *made)
    with pytest.raises(TypeError, match=r"argument 1 \(bias\) must be a tensor"):
        module["run"](inputs[0], 3, *made)
    with pytest.raises(ValueError, match=r"argument 0 \(x\) must have the shape \(1, 8\)"):
        module["run"](tvm.runtime.tensor(np.zeros((8,), np.uint8)), inputs[1], *made)


# Failures ---------------------------------------------------------------------------------------------------


def test_an_unknown_compiler_is_named() -> None:
    with pytest.raises(DeviceError, match=r"'no-such-cc -static' is not an executable command.*--cc"):
        choose_linker(HOST, "no-such-cc -static")


@pytest.mark.parametrize("cc", ["", "gcc 'unbalanced"])
def test_a_compiler_command_that_makes_no_sense_is_refused(cc: str) -> None:
    with pytest.raises(DeviceError, match="compiler"):
        choose_linker(HOST, cc)


def test_missing_ziglang_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ziglang", None)
    with pytest.raises(DeviceError, match=r"pip install ziglang.*--cc"):
        choose_linker(HOST)


def test_a_failed_link_reports_the_compiler_and_keeps_the_old_file(tmp_path: Path) -> None:
    made = build(tmp_path)
    output = made.executable()
    before = output.read_bytes()
    subprocess.run(
        [*made.linker.command, "-target", HOST, "-c", "-x", "c", "/dev/null", "-o", made.kernels], check=True
    )
    with pytest.raises(DeviceError, match="undefined symbol: tiny_"):
        made.executable()
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]


def test_a_link_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    made = build(tmp_path)
    with pytest.raises(DeviceError, match="did not end within"):
        link_executable(made.linker, "tiny", made.kernels, tmp_path, tmp_path / "tiny", timeout_s=0.001)
    assert not (tmp_path / "tiny").exists()


def test_first_use_is_known_by_zigs_cache(
    host: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.executable()
    assert not is_first_use(host.linker)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path))
    assert is_first_use(host.linker)
    assert not is_first_use(Linker(("gcc",), HOST, is_zig=False))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/one"}, "/cache"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/one"}, "/home/one/.cache"),
        ({"HOME": ""}, "/.cache"),
        ({}, "/.cache"),  # of a container's user without a home
    ],
)
def test_the_cache_needs_no_home(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_home() == Path(expected)
    assert default_cache_folder() == Path(expected) / "haqnas"
