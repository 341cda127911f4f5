"""Tuning: which row of the kernel table serves each layer best, measured inside the network on the device.

Variant k of the program gives every layer its k-th candidate. All variants run in turn, each telling the time of its
kernel calls, until the time is up; each layer then gets the candidate with the least median. So a network costs as
many programs as a layer has candidates, not as many as there are layers, and a layer is timed between its neighbours,
with caches as they are in deployment.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch.fx import GraphModule

from haqnas.codegen.emit import emit_sources
from haqnas.codegen.link import Linker, link_executable
from haqnas.codegen.lower import lower
from haqnas.codegen.objects import build
from haqnas.codegen.program import Program
from haqnas.codegen.selftest import make_self_test
from haqnas.codegen.split import Cutting
from haqnas.devices.cache import KernelCache
from haqnas.devices.device import Device
from haqnas.devices.kernel_times import Kernel as TimedKernel
from haqnas.devices.kernel_times import KernelTime
from haqnas.devices.layer_times import run_layers
from haqnas.errors import ConfigurationError, ProgramError
from haqnas.hardware import HardwareProfile
from haqnas.kernels.row import Geometry, Kernel
from haqnas.kernels.table import candidates

MOST_CANDIDATES = 4  # of a layer: each is a program to build, which takes seconds
RUNS = 20  # of a variant, each time that it is its turn
LEAST_ROUNDS = 3
LEAST_GAIN = 0.03  # below that the choice by rule stays: differences of that size do not repeat
# Part of the context of times: those of a kernel by itself, which `measure` keeps in the same file, are others.
TIMED_AS = "layer inside a network"

Note = Callable[[str], None]
Pair = tuple[Geometry, str]  # a layer as its kernel sees it, name of a row of the kernel table
Choices = Mapping[Geometry, str]  # of a layer -> name of a row
Ranked = Mapping[
    Geometry, Sequence[str]
]  # of a layer -> names of the rows to compare, the choice by rule first


@dataclass(frozen=True, slots=True)
class Request:
    """What is tuned, and with what."""

    graph: GraphModule
    profile: HardwareProfile
    name: str
    threads: int
    linker: Linker
    device: Device
    limit_s: float


@dataclass(frozen=True, slots=True)
class Variant:
    """An executable that times its kernel calls, and the candidate that serves each of its layers."""

    executable: Path
    rows: Mapping[str, Pair]  # by layer


def require_clock(device: Device | None, target: str) -> Device:
    """The device, where it measures time; raises ConfigurationError for one that counts, or none."""
    if device is None or device.latency_kind != "measured":
        where = "no device here runs it" if device is None else f"{device.uri} counts instructions"
        raise ConfigurationError(
            f"--tune-time needs a device that measures time, but for {target!r} {where}; leave --tune-time out, "
            "then kernels are chosen by rule"
        )
    return device


def tune(
    request: Request,
    folder: Path,
    cache: KernelCache,
    note: Note,
    clock: Callable[[], float] = time.monotonic,
) -> Choices:
    """The rows that beat the choice by rule, for `lower_and_build`; what was measured is kept in `cache`.

    Works in `folder`, for about `limit_s` seconds in all, of which building the variants takes some each. Raises
    ProgramError where a variant fails, DeviceError where the device does.
    """
    deadline = clock() + request.limit_s
    programs = lower_variants(request)
    ranked = rank_layers(programs)
    pairs = {(geometry, name) for geometry, names in ranked.items() for name in names}
    kept = cache.known()
    known = {pair: kept[kernel_of(pair)].amount for pair in pairs if kernel_of(pair) in kept}
    missing = pairs - set(known)
    if missing:
        first, *others = programs
        wanted = [first, *(program for program in others if missing & set(rows_of(program).values()))]
        measured = _measure(request, wanted, folder, note, clock, deadline)
        cache.put({kernel_of(pair): found for pair, found in measured.items()}, time.time())
        known |= {pair: found.amount for pair, found in measured.items()}
    return choose_rows(ranked, known)


def lower_variants(request: Request) -> tuple[Program, ...]:
    """The program by rule, then those with further candidates that differ from the ones before."""
    variants: list[Program] = []
    for index in range(MOST_CANDIDATES):
        program = _lowered(request, index)
        if all(rows_of(program) != rows_of(other) for other in variants):
            variants.append(program)
    return tuple(variants)


def rank_layers(programs: Sequence[Program]) -> Ranked:
    """The rows that serve each layer of the first program in any of them, where there are several.

    A layer may be read differently where another row serves it (a first layer in cells or in planes); such a reading,
    and a candidate that never comes to serve the layer, have nothing to be compared with.
    """
    names: dict[Geometry, dict[str, None]] = {geometry: {} for geometry, _ in rows_of(programs[0]).values()}
    for program in programs:
        for geometry, name in rows_of(program).values():
            if geometry in names:
                names[geometry][name] = None  # a set that keeps its order
    return {geometry: tuple(found) for geometry, found in names.items() if len(found) > 1}


def rows_of(program: Program) -> dict[str, Pair]:
    """Layer -> how its kernel sees it, and the kernel table's row."""
    return {layer.name: (layer.geometry, layer.row) for layer in program.layers if layer.geometry is not None}


def kernel_of(pair: Pair) -> TimedKernel:
    """The name under which the time of a layer on a row is kept."""
    geometry, row = pair
    return row, json.dumps(asdict(geometry), sort_keys=True)


def serious(geometry: Geometry, isas: Sequence[str]) -> tuple[Kernel, ...]:
    """Candidates that are worth a measurement: the best few, none that stands in for want of space."""
    rows = candidates(geometry, isas)
    special = tuple(row for row in rows if row.isa != "portable" and not row.is_general)
    return special[:MOST_CANDIDATES] or rows[:1]


def choose_rows(ranked: Ranked, times_s: Mapping[Pair, float]) -> Choices:
    """The fastest row of each layer where it is faster than the first by more than LEAST_GAIN."""
    choices = {}
    for geometry, (first, *others) in ranked.items():
        timed = {name: times_s[geometry, name] for name in others if (geometry, name) in times_s}
        by_rule_s = times_s.get((geometry, first))
        if by_rule_s is None or not timed:
            continue
        best = min(timed, key=lambda name: timed[name])
        if timed[best] < by_rule_s * (1 - LEAST_GAIN):
            choices[geometry] = best
    return choices


def _measure(
    request: Request,
    programs: Sequence[Program],
    folder: Path,
    note: Note,
    clock: Callable[[], float],
    deadline: float,
) -> dict[Pair, KernelTime]:
    """Seconds of each candidate that there was time for."""
    variants: list[Variant] = []
    for index, program in enumerate(programs):
        if index >= 2 and clock() > deadline:  # two are the least that can be compared
            break
        note(f"building variant {index + 1}")
        variants.append(_build(request, program, folder / str(index)))
    samples: dict[Pair, list[float]] = {}
    note(f"timing {len(variants)} variants in turn, {max(0.0, deadline - clock()):.0f} s")
    rounds = 0
    while rounds < LEAST_ROUNDS or clock() < deadline:
        rounds += 1
        for variant in variants if rounds % 2 else reversed(variants):
            for pair, time_s in _time_layers(variant, request.device).items():
                samples.setdefault(pair, []).append(time_s)
    return {pair: _summarised(found) for pair, found in samples.items()}


def _summarised(samples_s: Sequence[float]) -> KernelTime:
    median_s, high_s = np.quantile(samples_s, (0.5, 0.9))
    return KernelTime(float(median_s), float(high_s / median_s - 1), len(samples_s) * RUNS)


def _lowered(request: Request, index: int) -> Program:
    def choose(geometry: Geometry, isas: Sequence[str]) -> Kernel:
        rows = serious(geometry, isas)
        return rows[min(index, len(rows) - 1)]

    return lower(request.graph, request.profile, request.name, choose, cutting=Cutting(request.threads))


def _build(request: Request, program: Program, folder: Path) -> Variant:
    folder.mkdir(parents=True, exist_ok=True)
    kernels = build(program.functions, request.profile, folder / "kernels.o")
    # Nobody reads the outputs of a variant: the program that is kept is checked.
    unchecked = make_self_test([np.zeros(info.shape, np.float32) for info in program.outputs], True)
    emit_sources(program, folder / "sources", unchecked)
    executable = folder / request.name
    link_executable(
        request.linker,
        request.name,
        kernels,
        folder / "sources",
        executable,
        is_marked=True,
        is_threaded=request.threads > 1,
    )
    return Variant(executable, rows_of(program))


def _time_layers(variant: Variant, device: Device) -> dict[Pair, float]:
    """Seconds of each kind of layer, all its calls together; of several layers of one kind the mean."""
    try:
        sums = run_layers(variant.executable, RUNS, device)
    except ProgramError as error:
        raise ProgramError(f"a program to tune with failed: {error}; leave --tune-time out") from None
    kinds: dict[Pair, list[float]] = {}
    for layer, pair in variant.rows.items():
        kinds.setdefault(pair, []).append(sums[layer])
    return {pair: statistics.mean(found) for pair, found in kinds.items()}
