"""Budgets: limits of latency, size and accuracy as the user writes them, absolute or as a share of uniform int8."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from haqnas.errors import ConfigurationError

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_BYTES = {"": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*|%)")


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that something may be: an amount, or a share of what the uniform int8 build has."""

    text: str  # as the user wrote it
    amount: float  # seconds or bytes; 0.6 for 60%
    is_share: bool

    def of(self, int8: float) -> float:
        """The limit as an amount, where the uniform int8 build has `int8`."""
        return self.amount * int8 if self.is_share else self.amount


@dataclass(frozen=True, slots=True)
class Budgets:
    """What the user limits; None: nothing. `max_drop` is a difference of accuracies, 0.01 for one point of top-1."""

    latency: Limit | None = None
    size: Limit | None = None
    max_drop: float | None = None


def read_budgets(latency: str | None, size: str | None, max_drop: float | None) -> Budgets:
    """Budgets from options; raises ConfigurationError."""
    if max_drop is not None and not 0 <= max_drop < math.inf:
        raise ConfigurationError(
            f"--max-drop is a difference of accuracies from 0, such as 0.01, but got {max_drop}"
        )
    return Budgets(
        None if latency is None else _read("--latency-budget", latency, _SECONDS, "5ms, 800us or 60%"),
        None if size is None else _read("--size-budget", size, _BYTES, "300KiB, 1.5MB or 50%"),
        max_drop,
    )


def _read(option: str, text: str, units: Mapping[str, float], examples: str) -> Limit:
    match = _NUMBER.fullmatch(text.strip())
    known = match is not None and match[2] in {*units, "%"}
    if match is None or not known or float(match[1]) == 0:
        raise ConfigurationError(f"{option} is written as {examples} (of uniform int8), but got {text!r}")
    is_share = match[2] == "%"
    return Limit(text.strip(), float(match[1]) * (0.01 if is_share else units[match[2]]), is_share)
