"""Which device runs a target: the one that the user names, else this machine, else QEMU, else none."""

import shutil

from haqnas.devices.device import Device
from haqnas.devices.registry import DeviceRequest, open_device, parse_uri
from haqnas.hardware import HardwareProfile, HostCpu


def device_for(profile: HardwareProfile, uri: str | None, host: HostCpu, threads: int = 1) -> Device | None:
    """The device for programs of `threads` threads; None where no `uri` is given and nothing here can run them.

    Raises ConfigurationError for an unknown `uri`, DeviceError for one that cannot run this target.
    """
    chosen = uri if uri is not None else _default_uri(profile, host)
    return None if chosen is None else open_device(DeviceRequest(parse_uri(chosen), profile, host, threads))


def _default_uri(profile: HardwareProfile, host: HostCpu) -> str | None:
    if host.can_run(profile):
        return "local"
    if profile.emulator and shutil.which(profile.emulator.program):
        return f"qemu:{profile.emulator.cpu}"
    return None
