"""Measuring programs: nothing is measured twice, emulated counts repeat exactly, failures are data."""

import dataclasses
import json

import pytest

from haqnas.devices.device import Completed
from haqnas.devices.kernel_times import kernels_of, measure_kernel_set
from haqnas.devices.local import LocalDevice, read_host_cpu
from haqnas.errors import DeviceError
from haqnas.hardware import find_profile
from haqnas.measure import measure, whole_kernel
from tests.measured import PROFILES, bench, canonical_network, subject, uniform_programs


def silent(done: int, note: str) -> None:
    del done, note


@dataclasses.dataclass
class CountingDevice:
    """This machine; remembers what it ran, and fails where it is told to."""

    fails: str = ""
    uri: str = "local"
    latency_kind: str = "measured"
    runs: list[str] = dataclasses.field(default_factory=list)

    def run(self, executable, arguments, timeout_s):
        self.runs.append(arguments[0])
        if arguments[0] == self.fails:
            raise DeviceError("the device is gone")
        return LocalDevice().run(executable, arguments, timeout_s)


@pytest.fixture(scope="module")
def uniforms():
    profile = find_profile("host", read_host_cpu())
    return uniform_programs(*canonical_network("ds_cnn"), profile, "w8a8", "w4a8", "w4a4")


@pytest.fixture
def device():
    return CountingDevice()


@pytest.fixture
def host_bench(tmp_path, device):
    return bench(find_profile("host", read_host_cpu()), tmp_path / "cache", device)


def test_all_kernels_are_measured_once(tmp_path, uniforms, host_bench, device):
    subjects = [subject(uniform) for uniform in uniforms]
    first = measure(subjects[:1], host_bench, tmp_path / "one", silent)
    wanted = {*kernels_of(uniforms[0].program), whole_kernel(uniforms[0].program)}
    assert first.times.keys() == wanted
    assert first.num_new == len(wanted)
    assert all(time.amount > 0 for time in first.times.values())
    device.runs.clear()
    again = measure(subjects[:1], host_bench, tmp_path / "two", silent)
    assert (again.times, again.num_new, device.runs) == (first.times, 0, [])
    more = measure(subjects, host_bench, tmp_path / "three", silent)
    assert more.num_new == len(more.times) - len(first.times) > 0
    assert {kernel: more.times[kernel] for kernel in wanted} == first.times


def test_a_program_that_computes_wrong_numbers_is_a_failure_and_the_others_are_measured(
    tmp_path, uniforms, host_bench
):
    right, other, last = (subject(uniform) for uniform in uniforms)
    wrong = dataclasses.replace(other, expected=lambda inputs: [out + 1 for out in other.expected(inputs)])
    found = measure([right, wrong, last], host_bench, tmp_path / "work", silent)
    assert found.failures.keys() == {"w4a8"}
    assert "wrong numbers on local" in found.failures["w4a8"]
    assert whole_kernel(uniforms[0].program) in found.times
    assert whole_kernel(uniforms[2].program) in found.times
    assert whole_kernel(uniforms[1].program) not in found.times


def test_a_device_that_fails_gives_reasons_and_loses_nothing(tmp_path, uniforms, host_bench, device):
    kept = measure([subject(uniforms[0])], host_bench, tmp_path / "one", silent)
    device.fails = "--times"
    found = measure([subject(uniform) for uniform in uniforms], host_bench, tmp_path / "two", silent)
    assert found.failures == {"w4a8": "the device is gone", "w4a4": "the device is gone"}
    assert found.times == kept.times


def test_a_device_that_fails_again_and_again_is_asked_no_more(tmp_path, uniforms, host_bench, device):
    device.fails = "--golden"
    found = measure([subject(uniform) for uniform in uniforms], host_bench, tmp_path / "work", silent)
    assert device.runs == ["--golden"] * 3  # all in one set, then two alone
    assert found.failures["w4a8"] == "the device is gone"
    assert found.failures["w4a4"] == (
        "local is set aside after 3 failures in a row; the last: the device is gone"
    )


@pytest.mark.arm
def test_counts_of_an_emulator_repeat_exactly(tmp_path):
    profile = PROFILES["cortex-a53"]
    (uniform,) = uniform_programs(*canonical_network("ds_cnn"), profile, "w4a8")
    first, second = (
        measure([subject(uniform)], bench(profile, tmp_path / name), tmp_path / f"{name}-work", silent).times
        for name in ("a", "b")
    )
    assert first == second
    whole = first[whole_kernel(uniform.program)].amount
    total = sum(first[kernel].amount for kernel in kernels_of(uniform.program))
    assert total == pytest.approx(whole, rel=0.01)
    counts = [first[kernel].amount for kernel in kernels_of(uniform.program)]
    assert max(counts) > 100 * min(counts) > 0  # the 1x1 convolutions, and borders


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        ("garbage", "printed no times: 'garbage'"),
        ("{}", "printed no times"),
        (json.dumps({"empty_ps": 1, "segments": [{"runs": 1, "total_ps": [1], "calls_ps": []}]}), "no times"),
        (
            json.dumps({"empty_ps": 1, "segments": [{"runs": 1, "total_ps": [1, 1, 1], "calls_ps": []}]}),
            r"timed \[0\] calls instead of \[2\]",
        ),
    ],
)
def test_what_a_device_prints_is_checked(tmp_path, device, monkeypatch, stdout, message):
    monkeypatch.setattr(device, "run", lambda *_: Completed(0, stdout, "", 0.1), raising=False)
    with pytest.raises(DeviceError, match=message):
        measure_kernel_set(tmp_path / "set", [2], device, 1.0)


def test_an_exit_code_is_told(tmp_path, device, monkeypatch):
    monkeypatch.setattr(device, "run", lambda *_: Completed(4, "", "no AMX here", 0.1), raising=False)
    with pytest.raises(DeviceError, match="no AMX here"):
        measure_kernel_set(tmp_path / "set", [2], device, 1.0)
