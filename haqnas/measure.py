"""Measure: build kernel sets from programs, run them on a device while the next is built, keep the times.

Only programs with kernels that no time is known of are run, and they are run whole, so that each kernel finds the
caches as its neighbours leave them.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from haqnas.codegen.emit_set import emit_kernel_set
from haqnas.codegen.kernel_set import join
from haqnas.codegen.link import Linker, link_kernel_set
from haqnas.codegen.objects import build
from haqnas.codegen.program import Program
from haqnas.codegen.selftest import make_self_test, self_test_inputs
from haqnas.devices.cache import KernelCache
from haqnas.devices.device import Device
from haqnas.devices.health import Failure, Health, attempt
from haqnas.devices.kernel_times import (
    Kernel,
    KernelTime,
    SegmentTime,
    kernels_of,
    mean_time,
    measure_kernel_set,
)
from haqnas.errors import ProgramError, VerificationError
from haqnas.hardware import HardwareProfile

SET_FUNCTIONS = 24  # of one executable, about: small enough that building and running overlap
SET_PROGRAMS = 6  # a kill loses one set
SET_BYTES = 64 << 20  # of its constants
RUN_TIMEOUT_S = 600.0
EXIT_MISMATCH = 5  # of the executable
WHOLE = "program"  # stands for the function where all calls of a program are timed together

Array: TypeAlias = NDArray[np.generic]
Report: TypeAlias = Callable[[int, str], None]  # programs done, and what is done now


@dataclass(frozen=True, slots=True)
class Subject:
    """A program to be measured. `expected`: its outputs for the made-up inputs, where they are to be checked."""

    label: str
    program: Program
    expected: Callable[[Sequence[Array]], Sequence[Array]] | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """Where programs are measured and with what; `clock` gives seconds since the epoch."""

    profile: HardwareProfile
    linker: Linker
    device: Device
    cache: KernelCache
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Measured:
    """Times of kernels, and of whole programs (see `whole_kernel`); `failures`: a reason for each label that failed."""

    times: Mapping[Kernel, KernelTime]
    failures: Mapping[str, str]
    num_new: int  # kernels that were not in the cache


def whole_kernel(program: Program) -> Kernel:
    """The name under which the end-to-end time of a program is kept: equal lists of kernels have equal names."""
    text = "\n".join(" ".join(kernel) for kernel in kernels_of(program))
    return WHOLE, hashlib.sha256(text.encode()).hexdigest()[:32]


def measure(subjects: Sequence[Subject], bench: Bench, folder: Path, report: Report) -> Measured:
    """Times of all kernels of all programs; what is new is put into the cache set by set, so nothing is lost.

    Subjects have labels of their own, programs one name. Works in `folder`. A program that does not run, or computes
    wrong numbers, is a failure in the result. Raises DeviceError where the compiler fails.
    """
    known = bench.cache.known()
    new = [subject for subject in subjects if not _wanted(subject.program) <= known.keys()]
    num_built = 0
    running: Future[_Sofar] = Future()
    running.set_result(_Sofar(Health(), known, {}))
    with ThreadPoolExecutor(1) as runner:  # one: what is timed runs alone
        for number, group in enumerate(_groups(new)):
            report(len(subjects) - len(new) + num_built, f"building {_named(group)}")
            place = folder / str(number)
            running = runner.submit(_finish, running, group, _build(group, bench, place), bench, place)
            num_built += len(group)
        if new:
            report(len(subjects), f"measuring on {bench.device.uri}")
        ended = running.result()
    return Measured(ended.times, ended.failures, len(ended.times) - len(known))


@dataclass(frozen=True, slots=True)
class _Sofar:
    """After some sets."""

    health: Health
    times: Mapping[Kernel, KernelTime]
    failures: Mapping[str, str]


def _finish(
    before: Future[_Sofar], group: Sequence[Subject], executable: Path, bench: Bench, place: Path
) -> _Sofar:
    """Run a set and keep its times at once: a kill loses no more than the set in progress."""
    sofar = before.result()  # done: sets are finished one after the other
    health, results = _run(group, executable, bench, place, sofar.health)
    times = _new_times(group, results, sofar.times)
    bench.cache.put(times, bench.clock())
    failures = {label: reason for label, reason in results.items() if isinstance(reason, str)}
    return _Sofar(health, {**sofar.times, **times}, {**sofar.failures, **failures})


def _wanted(program: Program) -> set[Kernel]:
    return {*kernels_of(program), whole_kernel(program)}


def _named(group: Sequence[Subject]) -> str:
    return group[0].label if len(group) == 1 else f"{group[0].label} and {len(group) - 1} more"


def _groups(subjects: Sequence[Subject]) -> Iterator[Sequence[Subject]]:
    """Neighbours that make one executable."""
    group: list[Subject] = []
    functions: set[str] = set()
    num_bytes = 0
    for subject in subjects:
        own = {function for function, _ in kernels_of(subject.program)}
        num_bytes += len(subject.program.constants)
        is_full = len(group) == SET_PROGRAMS or len(functions | own) > SET_FUNCTIONS or num_bytes > SET_BYTES
        if group and is_full:
            yield group
            group, functions, num_bytes = [], set(), len(subject.program.constants)
        group.append(subject)
        functions |= own
    if group:
        yield group


def _build(group: Sequence[Subject], bench: Bench, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = join([subject.program for subject in group])
    kernels = build(program.functions, bench.profile, folder / "kernels.o")
    expected = _expected(group, program)
    unchecked = [np.zeros(info.shape, info.dtype) for info in program.outputs]
    emit_kernel_set(program, folder / "sources", make_self_test(expected or unchecked, is_exact=True))
    return link_kernel_set(bench.linker, program.name, kernels, folder / "sources", folder / program.name)


def _expected(group: Sequence[Subject], program: Program) -> list[Array]:
    """Outputs of the joined program by the reference; none where not every program can be checked."""
    made_up = iter(self_test_inputs(program))
    outputs: list[Array] = []
    for subject in group:
        inputs = list(itertools.islice(made_up, len(subject.program.inputs)))
        if subject.expected is None or not subject.program.is_exact:
            return []
        outputs += subject.expected(inputs)
    return outputs


def _run(
    group: Sequence[Subject], executable: Path, bench: Bench, folder: Path, health: Health
) -> tuple[Health, Mapping[str, SegmentTime | str]]:
    """The times of each program, or why it has none: where a set fails, its programs are run one by one.

    A device that fails again and again is asked no more: the rest has that for its reason.
    """
    health, times = attempt(health, bench.device.uri, lambda: _measure_set(group, executable, bench))
    if not isinstance(times, Failure):
        return health, dict(zip((subject.label for subject in group), times, strict=True))
    if len(group) == 1 or health.is_set_aside:
        return health, {subject.label: times.message for subject in group}
    results: dict[str, SegmentTime | str] = {}
    for number, subject in enumerate(group):
        place = folder / str(number)
        alone = executable if health.is_set_aside else _build([subject], bench, place)
        health, own = _run([subject], alone, bench, place, health)
        results |= own
    return health, results


def _measure_set(group: Sequence[Subject], executable: Path, bench: Bench) -> Sequence[SegmentTime]:
    if all(subject.expected is not None and subject.program.is_exact for subject in group):
        _check(executable, bench.device)
    calls = [len(subject.program.calls) for subject in group]
    return measure_kernel_set(executable, calls, bench.device, RUN_TIMEOUT_S)


def _check(executable: Path, device: Device) -> None:
    completed = device.run(executable, ("--golden",), RUN_TIMEOUT_S)
    if completed.exit_code == EXIT_MISMATCH:
        raise VerificationError(f"wrong numbers on {device.uri}: {completed.stderr.strip()}")
    if completed.exit_code != 0:
        raise ProgramError(f"the kernels do not run on {device.uri}: {completed.stderr.strip()}")


def _new_times(
    group: Sequence[Subject], results: Mapping[str, SegmentTime | str], known: Mapping[Kernel, KernelTime]
) -> dict[Kernel, KernelTime]:
    """By kernel that is not `known`; of equal ones the mean."""
    found: dict[Kernel, list[KernelTime]] = {}
    for subject in group:
        segment = results[subject.label]
        if isinstance(segment, SegmentTime):
            found.setdefault(whole_kernel(subject.program), []).append(segment.whole)
            for kernel, time in zip(kernels_of(subject.program), segment.calls, strict=True):
                found.setdefault(kernel, []).append(time)
    return {kernel: mean_time(times) for kernel, times in found.items() if kernel not in known}
