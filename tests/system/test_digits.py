"""The digits example from the command line to the running binary, on all kinds of CPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import haqnas

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "examples" / "digits.py"
TARGETS = [
    "host",
    pytest.param("arm-cpu", marks=pytest.mark.arm),
    pytest.param("riscv64", marks=pytest.mark.riscv),
]

THREADED_C = r"""
#include "digits.h"
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint8_t images[2][DIGITS_INPUT0_BYTES];
static float expected[2][10], given[2][10];
static _Alignas(64) unsigned char workspaces[2][DIGITS_WORKSPACE_BYTES];
static int errors[2];

static void run(int which, float *logits) {
  const void *inputs[] = {images[which]};
  void *outputs[] = {logits};
  errors[which] |= digits_run(inputs, outputs, workspaces[which]);
}

static void *work(void *argument) {
  int which = *(int *)argument;
  for (int i = 0; i < 2000; ++i) {
    run(which, given[which]);
    errors[which] |= memcmp(given[which], expected[which], sizeof given[which]);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[2];
  int which[2] = {0, 1};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < DIGITS_INPUT0_BYTES; ++j) images[i][j] = (uint8_t)((3 + 4 * i) * j % DIGITS_INPUT0_QUANT_MAX);
    run(i, expected[i]);
  }
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, work, &which[i]);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  if (errors[0] || errors[1]) return 1;
  printf("%d\n", memcmp(expected[0], expected[1], sizeof expected[0]) != 0);
  return 0;
}
"""


def run_haqnas(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("haqnas")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """target -> the artefact's directory, each compiled once from the command line."""
    folder = tmp_path_factory.mktemp("digits")
    done: dict[str, Path] = {}

    def compile_for(target: str) -> Path:
        if target not in done:
            result = run_haqnas(
                "compile", str(MODEL), "--target", target, "-o", str(folder / target), "--quiet"
            )
            assert result.returncode == 0, result.stderr
            done[target] = folder / target
        return done[target]

    return compile_for


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_binary_reads_digits_as_well_as_the_float_model(target, compiled, seed):
    script = REPOSITORY / "examples" / "evaluate_binary.py"
    result = subprocess.run(
        [sys.executable, str(script), str(MODEL), str(compiled(target))],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    row = next(line for line in result.stdout.splitlines() if line.startswith(str(compiled(target))))
    float_model, simulated, binary = (
        float(cell) for cell in row.removeprefix(str(compiled(target))).split()[:6:2]
    )
    assert simulated == binary
    assert binary >= float_model - 1


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_verify_accepts_what_compile_made(target, compiled):
    result = run_haqnas("verify", str(compiled(target)), "--json")
    assert result.returncode == 0, result.stderr
    checks = json.loads(result.stdout)["checks"]
    assert {check["name"] for check in checks} == {"files", "layers", "reference", "self test", "binary"}
    assert all(check["result"] == "ok" for check in checks)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_executable_is_static_and_small(target, compiled):
    artifact = haqnas.load(compiled(target))
    data = artifact.executable.read_bytes()
    assert len(data) <= artifact.manifest.sizes.packed_weight_bytes + 100_000
    assert b"/ld-musl" not in data  # no program interpreter
    assert b"/ld-linux" not in data


@pytest.mark.slow
def test_same_command_again_returns_at_once(compiled):
    directory = compiled("host")
    before = (directory / "manifest.json").stat().st_mtime_ns
    result = run_haqnas("compile", str(MODEL), "--target", "host", "-o", str(directory), "--json")
    assert result.returncode == 0, result.stderr
    assert (directory / "manifest.json").stat().st_mtime_ns == before


def build_with_library(source: str, directory: Path, program: Path) -> None:
    program.with_suffix(".c").write_text(source)
    library = [f"-I{directory / 'include'}", str(directory / "lib" / "libdigits.a"), "-lm", "-lpthread"]
    zig = [sys.executable, "-m", "ziglang", "cc", "-Wall", "-Werror", "-O1"]
    command = [*zig, str(program.with_suffix(".c")), *library, "-o", str(program)]
    subprocess.run(command, check=True, timeout=300)


@pytest.mark.slow
def test_two_threads_share_one_library(compiled, tmp_path):
    build_with_library(THREADED_C, compiled("host"), tmp_path / "threads")
    result = subprocess.run([tmp_path / "threads"], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (0, "1\n")


@pytest.mark.slow
def test_c_program_of_the_documentation_equals_python(compiled, tmp_path):
    page = (REPOSITORY / "docs" / "artefact.md").read_text()
    source = page.partition("```c\n")[2].partition("```")[0]
    build_with_library(source, compiled("host"), tmp_path / "documented")
    result = subprocess.run(
        [tmp_path / "documented"], capture_output=True, text=True, timeout=120, check=False
    )
    (logits,) = haqnas.load(compiled("host")).run(np.zeros((1, 1, 8, 8), np.float32))
    assert (result.returncode, result.stdout) == (0, f"{logits[0, 0]:g}\n")
