"""Networks of the zoo at uniform bits, and a bench that measures them: shared by tests of measuring and pricing."""

import time
from pathlib import Path

import torch
from torch.fx import GraphModule

from haqnas.artifact import run_reference
from haqnas.codegen.link import choose_linker
from haqnas.devices.cache import KernelCache
from haqnas.devices.device import Device
from haqnas.devices.local import LocalDevice
from haqnas.devices.qemu import QemuDevice
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import HardwareProfile, shipped_profiles
from haqnas.measure import Bench, Subject
from haqnas.pricing import Uniform, lower_uniform
from haqnas.quantspec import QuantSpec
from tests.zoo import ZOO

PROFILES = {profile.name: profile for profile in shipped_profiles()}


def canonical_network(network: str) -> tuple[GraphModule, tuple[torch.Tensor, ...]]:
    model, inputs = ZOO[network]()
    return normalise(trace(model.eval(), inputs)), inputs


def uniform_programs(
    canonical: GraphModule, inputs: tuple[torch.Tensor, ...], profile: HardwareProfile, *specs: str
) -> list[Uniform]:
    return [lower_uniform(canonical, [inputs], profile, QuantSpec.parse(spec), "net") for spec in specs]


def subject(uniform: Uniform, label: str = "") -> Subject:
    def expected(inputs):
        return run_reference(uniform.graph, inputs, uniform.program.inputs)

    return Subject(label or str(uniform.spec), uniform.program, expected)


def bench(profile: HardwareProfile, folder: Path, device: Device | None = None) -> Bench:
    """On the emulator of the profile, else on this machine."""
    emulator = profile.emulator
    runs_on = device or (QemuDevice(emulator.program, emulator.cpu) if emulator else LocalDevice())
    cache = KernelCache(folder, {"target": profile.name})
    return Bench(profile, choose_linker(profile.triple), runs_on, cache, time.time)
