"""Progress: what a long call tells its caller."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from haqnas.search.state import SearchState


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage begins: number `index` of `total`; `index == total` says that all is done.

    `is_even`: stages take about as long as each other, so that what is left can be told. `search`: how far its trials
    are, where it makes some. `target`: of several, whose stage it is.
    """

    stage: str
    index: int
    total: int
    note: str
    is_even: bool = False
    search: SearchState | None = None
    target: str | None = None


Report: TypeAlias = Callable[[Progress], None]
