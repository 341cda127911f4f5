"""What a peer offers: files made once, then a session that runs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class UnsupportedError(Exception):
    """A peer cannot run a network, or is not installed; the message says why and stands in the table."""


class Session(Protocol):
    """A loaded network with its input in place."""

    def run_ns(self) -> int:
        """One inference; its time by the finest clock that the peer offers."""

    def output(self) -> NDArray[np.float32]:
        """The first output of the last run, as real numbers."""


class Peer(Protocol):
    """A module of `peers/`: an inference library that users would pick instead of haqnas."""

    def versions(self) -> Mapping[str, str]: ...

    def prepare(self, network: str, folder: Path) -> None:
        """Write the files of all variants into `folder`; raises UnsupportedError."""

    def open_session(self, variant: str, folder: Path, num_threads: int) -> Session: ...
