"""Fingerprints: what a machine says of itself, and the digest of that which determines timings."""

from dataclasses import replace
from pathlib import Path

import pytest

from haqnas.devices.fingerprint import UNAME, cpu_name, describe_machine, read_facts

CPU = "/sys/devices/system/cpu"
PI = {
    UNAME: "Linux 6.1.21-v8+ aarch64\n",
    "/proc/cpuinfo": "".join(
        f"processor\t: {core}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        for core, part in enumerate(("0xd05", "0xd05", "0xd0b", "0xd0b"))
    )
    + "Hardware\t: BCM\nModel\t\t: Raspberry Pi\n",
    "/proc/self/status": "Name:\tcat\nCpus_allowed_list:\t0-3\n",
    "/etc/os-release": 'NAME="x"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "/proc/device-tree/model": "Board 5\0",
    f"{CPU}/online": "0-3\n",
    **{f"{CPU}/cpu{core}/cpufreq/scaling_governor": "schedutil\n" for core in range(4)},
    **{f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": f"{600_000 + core}\n" for core in range(4)},
    **{f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": "2400000\n" for core in range(4)},
    "/sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "70000\n",
    "/sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone1/temp": "48500\n",
    "/sys/class/thermal/thermal_zone2/type": "cpu-broken\n",
    "/sys/class/thermal/thermal_zone2/temp": "-274000\n",
}


def test_all_that_a_board_says_is_read() -> None:
    found = describe_machine("ssh://pi", PI, (2, 3), 1)
    assert found.cpu == "Cortex-A76"
    assert (found.board, found.arch, found.kernel) == ("Board 5", "aarch64", "Linux 6.1.21-v8+")
    assert (found.cores, found.affinity, found.pinned_cores) == (4, (2, 3), 1)
    assert (found.frequency_hz, found.max_frequency_hz, found.governor) == (600_003e3, 2.4e9, "schedutil")
    assert found.temperature_c == pytest.approx(48.5)
    assert found.system == "Debian GNU/Linux 12 (bookworm)"


def test_what_cannot_be_read_is_absent() -> None:
    found = describe_machine("ssh://pi", {}, None, None)
    assert found.to_document().keys() <= {"device", "haqnas", "key"}


def test_unreadable_values_are_absent_not_guessed() -> None:
    facts = PI | {f"{CPU}/online": "?", "/sys/class/thermal/thermal_zone1/temp": "N/A\n"}
    found = describe_machine("d", facts, None, None)
    assert found.cores is None
    assert found.temperature_c == pytest.approx(70.0)  # the hottest that is readable


def test_key_is_of_what_determines_timings() -> None:
    base = describe_machine("ssh://pi", PI, (2, 3), 1)
    same = replace(
        base, device="ssh://other", temperature_c=80.0, frequency_hz=1e9, kernel="Linux 7", affinity=(3,)
    )
    assert same.key == base.key
    others = (
        replace(base, cpu="Cortex-A72"),
        replace(base, governor="performance"),
        replace(base, pinned_cores=None),
        replace(base, max_frequency_hz=1.5e9),
        replace(base, emulator="qemu-aarch64 version 8"),
    )
    assert len({base.key, *(other.key for other in others)}) == 1 + len(others)


def test_cpus_without_a_name_are_like_no_other() -> None:
    one, other = (replace(describe_machine(uri, PI, None, None), cpu=None) for uri in ("ssh://a", "ssh://b"))
    assert one.key != other.key


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\n", "AMD EPYC"),
        ("processor\t: 0\nuarch\t\t: sifive,u74-mc\n", "sifive,u74-mc"),
        ("processor: 0\nCPU implementer: 0x51\nCPU part: 0x802\n", "CPU part 0x802 of implementer 0x51"),
        ("processor: 0\nCPU implementer: 0x41\nCPU part: 0xfff\n", "CPU part 0xfff of implementer 0x41"),
        ("", None),
    ],
)
def test_names_of_cpus(text: str, name: str | None) -> None:
    assert cpu_name(text) == name


def test_facts_are_read_below_a_root(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name: x\n")
    (tmp_path / "sys/devices/system/cpu/cpu12/cpufreq").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/cpu12/cpufreq/scaling_governor").write_text("powersave\n")
    facts = read_facts(tmp_path)
    assert facts["/proc/cpuinfo"] == "model name: x\n"
    assert describe_machine("d", facts, (12,), 1).governor == "powersave"
