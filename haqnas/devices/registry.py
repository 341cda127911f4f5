"""Transports by the scheme of their URI: ours, and those that other distributions add.

A distribution adds one by an entry point of the group `haqnas.devices`, in its pyproject.toml:

    [project.entry-points."haqnas.devices"]
    serial = "my_boards.serial:open_device"

which makes `--device serial:/dev/ttyUSB0` call `open_device(request)` for a `Device`.
"""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from haqnas.devices.device import Device
from haqnas.errors import ConfigurationError
from haqnas.extensions import known_extensions
from haqnas.hardware import HardwareProfile, HostCpu

GROUP = "haqnas.devices"


@dataclass(frozen=True, slots=True)
class DeviceUri:
    """`scheme:address?name=value&flag`, split; `ssh://pi@board:22?core=3` has the address `//pi@board:22`."""

    text: str
    scheme: str
    address: str
    options: Mapping[str, str]  # of a flag without a value: ""

    def check_options(self, known: Sequence[str]) -> None:
        """Raises ConfigurationError for an option that this transport does not have."""
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            listed = ", ".join(known) or "none"
            raise ConfigurationError(
                f"--device {self.text}: unknown option {unknown[0]!r}; {self.scheme} has {listed}"
            )


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a transport is asked for: a device that runs programs for `profile`, with so many threads."""

    uri: DeviceUri
    profile: HardwareProfile
    host: HostCpu
    threads: int = 1


# Raises ConfigurationError for a URI that makes no sense, DeviceError for a device that cannot run the target; it
# need not connect yet.
OpenDevice: TypeAlias = Callable[[DeviceRequest], Device]

# Of the same kind as those of other distributions, but here, so that they are there however haqnas is installed.
_OURS = tuple(
    importlib.metadata.EntryPoint(scheme, value, GROUP)
    for scheme, value in (
        ("local", "haqnas.devices.local:open_device"),
        ("qemu", "haqnas.devices.qemu:open_device"),
        ("ssh", "haqnas.devices.ssh:open_device"),
        ("tvm-rpc", "haqnas.devices.tvm_rpc:open_device"),
    )
)


def parse_uri(text: str) -> DeviceUri:
    """Split what the user wrote; raises ConfigurationError for an option that is given twice."""
    place, _, query = text.partition("?")
    scheme, _, address = place.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name in options:
            raise ConfigurationError(f"--device {text}: the option {name!r} is given twice")
        options[name] = value
    return DeviceUri(text, scheme, address, options)


def known_transports() -> dict[str, importlib.metadata.EntryPoint]:
    """By scheme; raises ConfigurationError where two distributions claim one scheme."""
    return known_extensions(GROUP, "device", _OURS)


def open_device(request: DeviceRequest) -> Device:
    """The device of a URI; raises ConfigurationError for an unknown scheme, and what the transport raises."""
    transports = known_transports()
    uri = request.uri
    if uri.text == "table":
        raise ConfigurationError(
            "--device table runs nothing: it predicts while compiling (haqnas compile --device table); name one "
            "that runs programs, such as local or qemu"
        )
    if uri.scheme not in transports:
        raise ConfigurationError(
            f"unknown device {uri.text!r}; known are {', '.join(sorted(transports))}, "
            "as in local, qemu:cortex-a53, ssh://pi@board (docs/devices.md)"
        )
    try:
        factory: OpenDevice = transports[uri.scheme].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"--device {uri.text}: the transport {transports[uri.scheme].value} cannot be loaded: {error}"
        ) from error
    return factory(request)
