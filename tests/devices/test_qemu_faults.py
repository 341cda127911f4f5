"""QEMU as a device: files in and out, and what each fault ends as."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from haqnas.devices.qemu import QemuDevice
from haqnas.errors import DeviceError, ProgramError
from tests.devices.programs import SOURCE, running, wait_until

pytestmark = pytest.mark.arm
DEVICE = QemuDevice("qemu-aarch64", "cortex-a53")


@pytest.fixture(scope="module")
def arm_actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm")
    source, program = folder / "actor.c", folder / "arm-actor"
    source.write_text(SOURCE)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-O2", "-s", "-static"]
    subprocess.run([*command, str(source), "-o", str(program)], check=True, capture_output=True)
    return program


def test_files_go_in_and_come_back(arm_actor: Path) -> None:
    done = DEVICE.run(arm_actor, ["copy"], 10.0, {"a/in.bin": b"\x00\xff"}, ["out/x.bin", "none"])
    assert (done.exit_code, done.files) == (0, {"out/x.bin": b"\x00\xff"})


def test_hanging_program_is_ended(arm_actor: Path) -> None:
    with pytest.raises(DeviceError, match=r"did not end within 1 s and was stopped; its last words: waiting"):
        DEVICE.run(arm_actor, ["hang"], 1.0)
    wait_until(lambda: not running(f"{arm_actor} hang"), "the emulator is gone")


def test_emulator_that_dies_in_the_middle_is_told(arm_actor: Path) -> None:
    def kill() -> None:
        wait_until(lambda: bool(running(f"{arm_actor} hang")), "the program runs")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            if f"{arm_actor}\0hang" in path.read_text(errors="replace"):
                os.kill(int(path.parent.name), signal.SIGKILL)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DeviceError, match="was killed"):
        DEVICE.run(arm_actor, ["hang"], 60.0)
    thread.join()


def test_crashes_garbage_and_a_full_disk_are_told(arm_actor: Path) -> None:
    with pytest.raises(ProgramError, match="SIGABRT"):
        DEVICE.run(arm_actor, ["crash"], 10.0)
    assert DEVICE.run(arm_actor, ["garbage"], 10.0).stdout == "\ufffd\x00@\n@ end"
    done = DEVICE.run(arm_actor, ["fill", "/dev/full"], 10.0)
    assert (done.exit_code, "No space left" in done.stderr) == (4, True)


def test_fingerprint_is_of_the_emulated_machine_only() -> None:
    found = DEVICE.fingerprint()
    assert (found.device, found.cpu, found.arch) == ("qemu:cortex-a53", "cortex-a53", "aarch64")
    assert found.emulator
    assert "qemu" in found.emulator
    assert found.kernel is None
    assert found.key != QemuDevice("qemu-aarch64", "cortex-a72").fingerprint().key
