"""Times of single kernel calls: run the executable of a kernel set, or count its instructions where it is emulated."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from haqnas.codegen.kernel_set import function_of
from haqnas.codegen.program import Program
from haqnas.devices.device import Device
from haqnas.devices.qemu import QemuDevice
from haqnas.errors import ProgramError

Kernel: TypeAlias = tuple[str, str]  # function and signature of a call

ROUNDS = (
    3  # a slow phase of a shared machine lasts for a second or so: the least of several rounds is repeatable
)
RUNS = 100  # of each segment in a round
ROUND_MS = 150  # of each segment, where it takes long


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel call: `amount` is seconds of a run that nothing disturbs, or executed instructions.

    `spread` is (90th hundredth - amount) / amount of the round that gave it: 0 for instructions, which do not vary.
    """

    amount: float
    spread: float
    runs: int


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """A program of a kernel set: the whole as it runs by itself, and each of its calls."""

    whole: KernelTime
    calls: tuple[KernelTime, ...]


def measure_kernel_set(
    executable: Path, calls: Sequence[int], device: Device, timeout_s: float
) -> tuple[SegmentTime, ...]:
    """Each segment, of so many `calls`, on `device`.

    Raises DeviceError where the device fails, ProgramError where the executable does or prints what makes no sense.
    """
    if isinstance(device, QemuDevice):
        return _count(executable, calls, device, timeout_s)
    rounds = [_time(executable, calls, device, timeout_s) for _ in range(ROUNDS)]
    return tuple(map(_least, zip(*rounds, strict=True)))


def kernels_of(program: Program) -> tuple[Kernel, ...]:
    """Function (without the program's name) and signature of each call."""
    return tuple((function_of(program, call), call.signature) for call in program.calls)


def mean_time(times: Sequence[KernelTime]) -> KernelTime:
    """Of equal kernels that stand at several places."""
    count = len(times)
    return KernelTime(
        sum(time.amount for time in times) / count,
        sum(time.spread for time in times) / count,
        sum(time.runs for time in times),
    )


def _least(rounds: Sequence[SegmentTime]) -> SegmentTime:
    """Of each call, and of the whole, the round that was disturbed least."""

    def least(times: Sequence[KernelTime]) -> KernelTime:
        return min(times, key=lambda time: time.amount)

    calls = zip(*(segment.calls for segment in rounds), strict=True)
    return SegmentTime(least([segment.whole for segment in rounds]), tuple(map(least, calls)))


def _time(
    executable: Path, calls: Sequence[int], device: Device, timeout_s: float
) -> tuple[SegmentTime, ...]:
    completed = device.run(executable, ("--times", str(RUNS), str(ROUND_MS)), timeout_s)
    if completed.exit_code != 0:
        raise ProgramError(f"{executable.name} --times failed on {device.uri}: {completed.stderr.strip()}")
    try:
        document = json.loads(completed.stdout)
        empty_ps = float(document["empty_ps"])
        found = tuple(_read_segment(segment, empty_ps) for segment in document["segments"])
    except (ValueError, KeyError, TypeError):
        raise ProgramError(
            f"{executable.name} on {device.uri} printed no times: {completed.stdout[:200]!r}"
        ) from None
    counts = [len(segment.calls) for segment in found]
    if counts != list(calls):
        raise ProgramError(
            f"{executable.name} on {device.uri} timed {counts} calls instead of {list(calls)}; "
            "was another program run?"
        )
    return found


def _read_segment(segment: Mapping[str, Any], empty_ps: float) -> SegmentTime:
    runs = int(segment["runs"])
    calls = tuple(_read(call, empty_ps, runs) for call in segment["calls_ps"])
    return SegmentTime(_read(segment["total_ps"], empty_ps, runs), calls)


def _read(times_ps: Sequence[float], empty_ps: float, runs: int) -> KernelTime:
    """Of [undisturbed, median, 90th hundredth]; what is shorter than the clock can tell takes half a nanosecond."""
    amount_ps, _, high_ps = (max(float(value) - empty_ps, 500.0) for value in times_ps)
    return KernelTime(amount_ps * 1e-12, (high_ps - amount_ps) / amount_ps, runs)


def _count(
    executable: Path, calls: Sequence[int], device: QemuDevice, timeout_s: float
) -> tuple[SegmentTime, ...]:
    marks = device.count_marks(executable, ("--marks",), timeout_s)
    expected = 2 + sum(count + 1 for count in calls)
    if len(marks) != expected:
        raise ProgramError(f"{executable.name} on {device.uri} made {len(marks)} marks instead of {expected}")
    empty = marks[1] - marks[0]
    counts = iter(after - before - empty for before, after in itertools.pairwise(marks[1:]))
    return tuple(SegmentTime(_counted(counts, 1)[0], _counted(counts, count)) for count in calls)


def _counted(counts: Iterator[int], number: int) -> tuple[KernelTime, ...]:
    return tuple(KernelTime(float(count), 0.0, 1) for count in itertools.islice(counts, number))
