"""Several targets: each is checked before the work on any, has a directory of its own, and may fail alone."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from haqnas.artifact import Artifact
from haqnas.bit_stage import read_times
from haqnas.compilation import Reporter, Subject, Task, run_task
from haqnas.errors import ConfigurationError, HaqnasError
from haqnas.hardware import HardwareProfile
from haqnas.manifest import FILE_NAME
from haqnas.options import TABLE, Options, cache_folder_of, check_options
from haqnas.resume import open_output, taught_os_errors
from haqnas.settings import Settings, SharedOptions
from haqnas.versions import read_versions


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


def attempt(subject: Subject, order: Order, task: Task, report: Reporter) -> TargetResult:
    """What the work on one of several targets comes to."""
    started_s = time.monotonic()
    artifact, failure = None, None
    try:
        with taught_os_errors(order.directory):
            artifact = run_task(subject, task, report)
    except HaqnasError as error:
        failure = error
    return TargetResult(order.target, artifact, failure, time.monotonic() - started_s)
