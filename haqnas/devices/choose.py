"""Which device runs a target: the one that the user names, else this machine, else QEMU, else none."""

import shutil

from haqnas.devices.device import Device
from haqnas.devices.local import LocalDevice
from haqnas.devices.qemu import QemuDevice
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.hardware import HardwareProfile, HostCpu


def device_for(profile: HardwareProfile, uri: str | None, host: HostCpu) -> Device | None:
    """The device for `profile`; None where no `uri` is given and nothing here can run it.

    Raises ConfigurationError for an unknown `uri`, DeviceError for one that cannot run this target.
    """
    if uri is None:
        return _default_device(profile, host)
    if uri == "local":
        if profile.arch != host.arch:
            raise DeviceError(
                f"--device local: this machine is {host.arch}, the target {profile.name!r} is {profile.arch}; "
                "use --device qemu"
            )
        return LocalDevice()
    kind, _, cpu = uri.partition(":")
    if kind != "qemu":
        raise ConfigurationError(
            f"unknown device {uri!r}; known are local, qemu and qemu:CPU (qemu:cortex-a53)"
        )
    emulator = profile.emulator
    program = emulator.program if emulator else f"qemu-{profile.arch}"
    if shutil.which(program) is None:
        raise DeviceError(f"--device {uri}: {program} is not installed; type: apt install qemu-user")
    return QemuDevice(program, cpu or (emulator.cpu if emulator else "max"))


def _default_device(profile: HardwareProfile, host: HostCpu) -> Device | None:
    if host.can_run(profile):
        return LocalDevice()
    if profile.emulator and shutil.which(profile.emulator.program):
        return QemuDevice(profile.emulator.program, profile.emulator.cpu)
    return None
