"""Transports by entry point: ours, and one that another distribution adds."""

import sys
from pathlib import Path

import pytest

from haqnas.devices.choose import device_for
from haqnas.devices.local import read_host_cpu
from haqnas.devices.registry import GROUP, known_transports, parse_uri
from haqnas.errors import ConfigurationError
from haqnas.hardware import find_profile
from tests.distribution import install

TRANSPORT = """
from dataclasses import dataclass
from haqnas.devices.device import Completed
from haqnas.devices.fingerprint import Fingerprint

@dataclass(frozen=True)
class SerialDevice:
    uri: str
    latency_kind: str = "measured"

    def run(self, executable, arguments, timeout_s, given={}, wanted=()):
        return Completed(0, f"{executable.name} over {self.uri}", "", 0.0)

    def fingerprint(self):
        return Fingerprint(device=self.uri, cpu="serial")

def open_device(request):
    request.uri.check_options(("baud",))
    return SerialDevice(request.uri.text)
"""


def choose(uri: str):
    host = read_host_cpu()
    return device_for(find_profile("host", host), uri, host)


def test_another_distribution_adds_a_transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "my_boards_a", GROUP, "serial = my_boards_a:open_device", TRANSPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    device = choose("serial:/dev/ttyUSB0?baud=115200")
    assert device.run(Path("/bin/true"), [], 1.0).stdout == "true over serial:/dev/ttyUSB0?baud=115200"
    assert device.fingerprint().cpu == "serial"
    assert "my_boards_a" in sys.modules
    with pytest.raises(ConfigurationError, match="unknown option 'speed'; serial has baud"):
        choose("serial:/dev/ttyUSB0?speed=1")


def test_unknown_scheme_lists_all_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "my_boards_b", GROUP, "serial = my_boards_b:open_device", TRANSPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ConfigurationError, match="unknown device 'gpu:0'; known are local, qemu, serial, ssh, tvm-rpc"
    ):
        choose("gpu:0")


def test_transport_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "my_boards_c", GROUP, "serial = my_boards_c:nothing", TRANSPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="my_boards_c:nothing cannot be loaded"):
        choose("serial:x")


def test_scheme_that_two_claim_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "my_boards_d", GROUP, "local = my_boards_d:open_device", TRANSPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="'local' is claimed twice"):
        choose("local")


def test_every_transport_of_ours_loads() -> None:
    assert {name: point.load().__name__ for name, point in known_transports().items()} == dict.fromkeys(
        ("local", "qemu", "ssh", "tvm-rpc"), "open_device"
    )


def test_uris_are_split() -> None:
    uri = parse_uri("ssh://pi@board:22?hostkey=accept-new&config=/a=b&x")
    assert (uri.scheme, uri.address) == ("ssh", "//pi@board:22")
    assert uri.options == {"hostkey": "accept-new", "config": "/a=b", "x": ""}
