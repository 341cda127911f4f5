"""Devices: what runs, and what each failure says. The programs are tiny C files, linked by zig as models are."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from haqnas.devices.choose import device_for
from haqnas.devices.latency import TimingPlan, measure_latency
from haqnas.devices.local import LocalDevice, parse_cpuinfo, read_host_cpu
from haqnas.devices.qemu import QemuDevice
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.hardware import HostCpu, shipped_profiles

BY_NAME = {profile.name: profile for profile in shipped_profiles()}
X86 = HostCpu("x86_64", frozenset(BY_NAME["x86-64-v3"].cpu_features))

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char** words) {
  const char* word = count > 1 ? words[1] : "";
  if (!strcmp(word, "trap")) __builtin_trap();
  if (!strcmp(word, "crash")) abort();
  if (!strcmp(word, "hang")) sleep(60);
  if (!strcmp(word, "fail")) { fputs("wrong input\n", stderr); return 5; }
  volatile int sum = 0;
  const int runs = !strcmp(word, "--repeat") ? atoi(words[2]) : 0;
  for (int i = 0; i < 1000 * runs; ++i) sum += i;
  printf("{\"times_ns\": [4000, 1000, 2000, 3000]}\n");
  return 0;
}
"""


def compile_c(folder: Path, triple: str) -> Path:
    source, program = folder / "program.c", folder / f"program-{triple}"
    source.write_text(SOURCE)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-O2", "-s", "-static"]
    subprocess.run([*command, str(source), "-o", str(program)], check=True, capture_output=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For this machine."""
    return compile_c(tmp_path_factory.mktemp("local"), f"{read_host_cpu().arch}-linux-musl")


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(tmp_path_factory.mktemp("arm"), "aarch64-linux-musl")


def test_local_run_gives_exit_code_and_output(program: Path) -> None:
    completed = LocalDevice().run(program, ["fail"], 10.0)
    assert (completed.exit_code, completed.stderr) == (5, "wrong input\n")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("trap", "instruction that this CPU does not have"),
        ("crash", "crashed .SIGABRT"),
        ("hang", "did not end within"),
    ],
)
def test_local_failures_are_told_in_words(program: Path, word: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        LocalDevice().run(program, [word], 1.0)


def test_program_that_is_not_there_or_not_executable_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file"):
        LocalDevice().run(tmp_path / "nothing", [], 1.0)
    (tmp_path / "text").write_text("no program")
    with pytest.raises(DeviceError, match="not executable"):
        LocalDevice().run(tmp_path / "text", [], 1.0)


@pytest.mark.arm
def test_arm_program_on_another_cpu_says_which_device_fits(arm_program: Path) -> None:
    if read_host_cpu().arch == "aarch64":
        pytest.skip("this machine runs Arm programs itself")
    with pytest.raises(DeviceError, match="--device qemu"):
        LocalDevice().run(arm_program, [], 1.0)


@pytest.mark.arm
def test_qemu_runs_and_reports_crashes(arm_program: Path) -> None:
    device = QemuDevice("qemu-aarch64", "cortex-a53")
    assert device.run(arm_program, ["fail"], 10.0).exit_code == 5
    with pytest.raises(DeviceError, match=r"crashed \(SIG"):
        device.run(arm_program, ["crash"], 10.0)


@pytest.mark.arm
def test_qemu_without_the_cpu_model_says_how_to_list_them(arm_program: Path) -> None:
    with pytest.raises(DeviceError, match="-cpu help"):
        QemuDevice("qemu-aarch64", "cortex-a1").run(arm_program, [], 10.0)


@pytest.mark.arm
def test_instruction_counts_grow_with_the_work_and_do_not_vary(arm_program: Path) -> None:
    device = QemuDevice("qemu-aarch64", "cortex-a53")
    counts = [device.count_instructions(arm_program, ["--repeat", runs], 10.0) for runs in ("1", "2", "2")]
    assert counts[1] == counts[2]
    assert 3000 <= counts[1] - counts[0] <= 10000  # 1000 turns of a loop with a load, an add and a store


def test_measured_latency_is_the_order_statistics_of_the_times(program: Path) -> None:
    latency = measure_latency(program, LocalDevice(), TimingPlan(runs=4), 10.0)
    assert (latency.kind, latency.device, latency.count) == ("measured", "local", 4)
    assert latency.median_s == pytest.approx(2.5e-6)
    assert latency.min_s == pytest.approx(1e-6)
    assert latency.instructions is None


def test_missing_emulator_says_what_to_type(program: Path) -> None:
    with pytest.raises(DeviceError, match="apt install qemu-user"):
        QemuDevice("qemu-nothing", "max").run(program, [], 1.0)


def test_default_device_is_this_machine_where_it_can_run_the_target() -> None:
    device = device_for(BY_NAME["x86-64-v3"], None, X86)
    assert device is not None
    assert device.uri == "local"


@pytest.mark.arm
def test_default_device_is_the_emulator_of_the_profile_else() -> None:
    device = device_for(BY_NAME["cortex-a76"], None, X86)
    assert device is not None
    assert device.uri == "qemu:cortex-a76"


def test_default_device_is_none_where_nothing_can_run_the_target() -> None:
    assert device_for(BY_NAME["x86-amx"], None, X86) is None


def test_default_device_is_none_without_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    assert device_for(BY_NAME["arm-cpu"], None, X86) is None
    with pytest.raises(DeviceError, match="apt install qemu-user"):
        device_for(BY_NAME["arm-cpu"], "qemu", X86)


def test_local_device_of_another_architecture_is_refused() -> None:
    with pytest.raises(DeviceError, match="--device qemu"):
        device_for(BY_NAME["arm-cpu"], "local", X86)


@pytest.mark.parametrize("uri", ["", "loca", "gpu:0"])
def test_unknown_device_lists_the_known(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="local, qemu"):
        device_for(BY_NAME["arm-cpu"], uri, X86)


def test_cpuinfo_names_become_ours_and_amx_needs_permission() -> None:
    text = "processor: 0\nflags\t\t: fpu avx2 abm bmi1 avx512_vnni amx_tile amx_int8 sse4_2\n"
    expected = {"avx2", "lzcnt", "bmi", "avx512vnni", "sse4.2"}
    assert parse_cpuinfo(text, "x86_64", may_use_amx=False).features == expected
    assert parse_cpuinfo(text, "x86_64", may_use_amx=True).features == expected | {"amx-tile", "amx-int8"}


@pytest.mark.parametrize(
    ("text", "arch", "features"),
    [
        (
            "Features\t: fp asimd atomics asimddp asimdhp i8mm\n",
            "aarch64",
            {"asimd", "lse", "dotprod", "fp16", "i8mm"},
        ),
        ("isa\t\t: rv64imafdc_zicsr_zvfh\n", "riscv64", set()),
        ("isa\t\t: rv64imafdcv_zicsr\n", "riscv64", {"v"}),
        ("", "s390x", set()),
    ],
)
def test_cpuinfo_of_other_machines(text: str, arch: str, features: set[str]) -> None:
    assert parse_cpuinfo(text, arch, may_use_amx=False).features == features
