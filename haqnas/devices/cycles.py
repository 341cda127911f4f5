"""Modelled cycles: what a core would spend on the blocks that an emulated program executed.

A model of the core's units alone: every access hits the first-level cache, every branch is predicted, and blocks
neither wait for each other nor overlap. The same blocks always give the same figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haqnas.devices.instruction_class import InstructionClass, classify
from haqnas.devices.llvm_mca import Block, count_cycles, find_mca
from haqnas.hardware import CoreCosts, HardwareProfile, shipped_profiles

# Classes that wait for the same units.
_UNITS: tuple[tuple[InstructionClass, ...], ...] = (
    ("alu", "mul", "div"),
    ("branch",),
    ("load", "vector_load", "store", "vector_store"),
    ("simd", "simd_mul", "simd_dot"),
    ("other",),
)


@dataclass(frozen=True, slots=True)
class Cycles:
    """Of one inference; `model` says how they were computed."""

    count: int
    model: str


def core_for(profile: HardwareProfile, cpu: str) -> CoreCosts | None:
    """The core that stands for the emulated `cpu`: the one of that name in a profile, else that of `profile`."""
    known = {of.cycles.core: of.cycles for of in (*shipped_profiles(), profile) if of.cycles is not None}
    return known.get(cpu, profile.cycles)


def model_cycles(executions: Mapping[Block, int], arch: str, costs: CoreCosts, cache_folder: Path) -> Cycles:
    """By llvm-mca where it is installed and knows the core, else, and for blocks that it cannot model, by `costs`.

    Raises ConfigurationError, DeviceError as `count_cycles`.
    """
    mca = find_mca(arch, costs.core)
    by_mca = {} if mca is None else count_cycles(tuple(executions), mca, cache_folder)
    total = in_rest = 0.0
    for block, times in sorted(executions.items()):  # sorted: sums of floats depend on their order
        cycles = by_mca.get(block)
        if cycles is None:
            cycles = cycles_by_class(block, arch, costs)
            in_rest += times * cycles
        total += times * cycles
    if mca is None:
        return Cycles(round(total), f"{costs.core} by costs of instruction classes")
    rest = f"; {in_rest / total:.1%} by costs of instruction classes" if in_rest else ""
    is_own = mca.scheduling.lower() in costs.core.replace("-", "")
    lent = "" if is_own else f" with LLVM's model of {mca.scheduling}"
    return Cycles(round(total), f"{costs.core} by llvm-mca {mca.version}{lent}{rest}")


def cycles_by_class(block: Sequence[str], arch: str, costs: CoreCosts) -> float:
    """Of one execution: what the busiest units take, or what starting all instructions takes."""
    kinds = [classify(instruction, arch) for instruction in block]
    busy = [sum(getattr(costs, kind) for kind in kinds if kind in unit) for unit in _UNITS]
    return float(max(len(kinds) / costs.width, *busy))
