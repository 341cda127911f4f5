"""Several targets: each is checked before the work on any, has a directory of its own, and may fail alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from haqnas.artifact import Artifact
from haqnas.bit_stage import read_times
from haqnas.compilation import Reporter, Subject, Task, needed_by, run_task
from haqnas.errors import ConfigurationError, HaqnasError
from haqnas.hardware import HardwareProfile
from haqnas.manifest import FILE_NAME
from haqnas.options import TABLE, Options, cache_folder_of, check_options
from haqnas.progress import Report
from haqnas.resume import open_output, taught_os_errors
from haqnas.settings import Settings, SharedOptions
from haqnas.versions import read_versions

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What came of one of several targets: the `artifact`, or the `error` that ended the work."""

    target: str  # as it was asked for; a profile, or the path of one: its name
    artifact: Artifact | None
    error: HaqnasError | None
    time_s: float


@dataclass(frozen=True, slots=True)
class Order:
    """One of several targets, its options checked, and where its artefact goes."""

    target: str
    options: Options
    directory: Path


def order_targets(
    targets: Sequence[str | HardwareProfile], output: Path, name: str, options: SharedOptions
) -> tuple[Order, ...]:
    """Raises ConfigurationError for what does not go together, and as `check_options` and `read_times`."""
    if not targets:
        raise ConfigurationError("there is no target; name one or more of `haqnas targets`")
    if len(targets) > 1:
        _check_shared(options)
    versions = read_versions()
    orders: list[Order] = []
    for target in targets:
        checked = check_options(name, Settings(target=target, **options))
        profile = checked.profile.name
        is_name = isinstance(target, str) and not target.endswith(".toml") and "/" not in target
        label = str(target) if is_name else profile
        for other in orders:
            if profile == other.options.profile.name or label == other.target:
                same = label if label == other.target else f"{other.target} and {label} are {profile}, which"
                raise ConfigurationError(f"--target: {same} is named twice; name each target once")
        read_times(checked, cache_folder_of(checked.settings), versions)
        orders.append(Order(label, checked, output / label))
    return tuple(orders)


def _check_shared(options: SharedOptions) -> None:
    """Refuse what fits one target only."""
    device = options.get("device")
    if device not in {None, TABLE}:
        raise ConfigurationError(
            f"--device {device} runs programs of one target, but several are given; leave it out (each target has its "
            f"default), give --device {TABLE}, or compile for one target at a time"
        )
    if options.get("cc") is not None:
        raise ConfigurationError(
            f"--cc {options['cc']} compiles for one target, but several are given; leave it out (zig knows all), "
            "or compile for one target at a time"
        )


@contextmanager
def open_outputs(output: Path, orders: Sequence[Order]) -> Iterator[list[Path]]:
    """Make and lock a directory for each target; gives their `.state`. Raises as `open_output`."""
    with taught_os_errors(output):
        was_there = output.exists()
        if (output / FILE_NAME).exists():
            raise ConfigurationError(
                f"{output} is an artefact, and several targets have one each below -o DIR; choose another -o DIR"
            )
    try:
        with ExitStack() as opened:
            yield [opened.enter_context(open_output(order.directory)) for order in orders]
    finally:
        if not was_there and output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def run_all(
    subject: Subject, orders: Sequence[Order], tasks: Sequence[Task], callback: Report | None
) -> tuple[TargetResult, ...]:
    """One target after the other; shared weights are trained once, for the architectures that any of them needs."""
    timed = [
        _timed(partial(needed_by, subject, task, Reporter(callback, order.target, len(orders))), order)
        for order, task in zip(orders, tasks, strict=True)
    ]
    # What fails here fails again in the work on that target, which tells it.
    needs = [found for found, _, _ in timed if found is not None]
    results = []
    for number, (order, task) in enumerate(zip(orders, tasks, strict=True)):
        report = Reporter(callback, order.target, len(orders), number)
        artifact, error, time_s = _timed(partial(run_task, subject, task, report, needs), order)
        results.append(TargetResult(order.target, artifact, error, timed[number][2] + time_s))
    return tuple(results)


def _timed(work: Callable[[], Result], order: Order) -> tuple[Result | None, HaqnasError | None, float]:
    """What the work gives, or the error that ends it, and its seconds."""
    started_s = time.monotonic()
    try:
        with taught_os_errors(order.directory):
            return work(), None, time.monotonic() - started_s
    except HaqnasError as error:
        return None, error, time.monotonic() - started_s
