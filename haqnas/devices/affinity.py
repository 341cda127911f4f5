"""Cores that programs are pinned to: a program that moves between cores is timed with cold caches."""

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from haqnas.errors import ConfigurationError

_SIMILAR = 0.9  # of the highest frequency: cores of one kind, a favoured one among them


def parse_cores(text: str) -> tuple[int, ...]:
    """Cores of a list such as `0-2,5`; raises ValueError."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        if not re.fullmatch(r"\d+(-\d+)?", part):
            raise ValueError(f"{text!r} is no list of cores such as 0-2,5")
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cores))


def choose_cores(
    allowed: Sequence[int],
    max_frequencies_hz: Mapping[int, float],
    asked: str | None,
    threads: int,
    device: str,
) -> tuple[int, ...]:
    """Cores that a program of `threads` threads may be pinned to `threads` of.

    Those that the user asked for, else the fast ones of the allowed (where cores differ). Raises ConfigurationError
    for cores that are not there or too few.
    """
    if asked is not None:
        return _check_asked(allowed, asked, threads, device)
    highest_hz = max((max_frequencies_hz.get(core, 0.0) for core in allowed), default=0.0)
    fast = tuple(core for core in allowed if max_frequencies_hz.get(core, 0.0) >= _SIMILAR * highest_hz)
    return fast if len(fast) >= threads else tuple(allowed)


def _check_asked(allowed: Sequence[int], asked: str, threads: int, device: str) -> tuple[int, ...]:
    try:
        cores = parse_cores(asked)
    except ValueError as error:
        raise ConfigurationError(f"the cores of --device {device}: {error}") from None
    if not set(cores) <= set(allowed):
        listed = ",".join(map(str, allowed))
        raise ConfigurationError(
            f"--device {device} asks for the cores {asked}, but only {listed} may be used there"
        )
    if len(cores) < threads:
        raise ConfigurationError(
            f"--device {device} gives {len(cores)} core(s) to a program of {threads} threads; name {threads}"
        )
    return cores


@contextmanager
def reserve_cores(candidates: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """`count` of the candidates, from the end; those that another haqnas here uses only where none is free.

    A name in the abstract socket namespace stands for a core: the kernel forgets it with the process that holds it.
    """
    with ExitStack() as held:
        free: list[int] = []
        for core in reversed(candidates):
            if len(free) == count:
                break
            lock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            try:
                lock.bind(f"\0haqnas-core-{core}")
            except OSError:
                continue
            free.append(core)
        shared = [core for core in reversed(candidates) if core not in free]
        yield tuple(sorted((free + shared)[:count]))


@contextmanager
def pinned_to(cores: Sequence[int] | None) -> Iterator[None]:
    """Pin this thread, so that a child that it starts is pinned from its first instruction."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
