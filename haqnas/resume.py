"""Resume: what went into a compilation as one hash, and the folder of finished stages that it names.

`DIR/.state/<hash>/` holds the results of finished stages while a compilation runs. The same request finds them
again after a kill; another request, or a newer haqnas, has another hash and finds nothing. A complete artefact
keeps the hash in its manifest and has no `.state`.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from haqnas.errors import ConfigurationError, DeviceError
from haqnas.graph.digest import add_graph, add_tensor

STATE = ".state"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def hash_request(graph: GraphModule, data: Sequence[Tensor], options: Mapping[str, Any]) -> str:
    """sha256 of the network with its weights, the data and the options (JSON values)."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    add_graph(digest, graph)
    for tensor in data:
        add_tensor(digest, tensor)
    return digest.hexdigest()


@contextmanager
def open_output(directory: Path) -> Iterator[Path]:
    """Make DIR and DIR/.state, hold its lock, and give the path of `.state`.

    Raises ConfigurationError where it cannot be written, is full, or another process compiles into it.
    """
    with taught_os_errors(directory):
        state = directory / STATE
        was_there = directory.exists()
        state.mkdir(parents=True, exist_ok=True)
        with (state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise
                raise ConfigurationError(
                    f"another haqnas is compiling into {directory}; wait for it, or choose another -o DIR"
                ) from None
            try:
                yield state
            finally:
                _tidy(directory, state, was_there)


def _tidy(directory: Path, state: Path, was_there: bool) -> None:
    """Leave no empty state, and no empty directory of our making, behind a run that came to nothing."""
    if not state.exists():
        return
    if not any(path.is_file() and path.name != "lock" for path in state.rglob("*")):
        shutil.rmtree(state)
    if not was_there and not any(directory.iterdir()):
        directory.rmdir()


@contextmanager
def taught_os_errors(directory: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ConfigurationError that says what to do."""
    try:
        yield
    except DeviceError as error:
        if os.strerror(errno.ENOSPC) not in str(error):  # a compiler says it in its own words
            raise
        raise ConfigurationError(_no_space(directory)) from error
    except OSError as error:
        place = error.filename or directory
        if error.errno in _FULL:
            message = _no_space(place)
        elif error.errno == errno.EROFS:
            message = f"{place} is on a read-only file system; choose another -o DIR"
        elif error.errno in {errno.EACCES, errno.EPERM}:
            message = f"{place} cannot be written: {error.strerror}; change its permissions or choose another -o DIR"
        elif error.errno in {errno.ENOTDIR, errno.EEXIST}:
            message = f"{place} is not a directory: a file is in the way; choose another -o DIR"
        else:
            message = f"{place}: {error.strerror or error}; choose another -o DIR, or look at the disk"
        raise ConfigurationError(message) from error


def _no_space(place: object) -> str:
    return f"no space left for {place}: free some, or choose another -o DIR; then run the same again"


def stage_folder(state: Path, request: str, fresh: bool) -> Path:
    """The folder of this request's finished stages; those of other requests are taken away."""
    chosen = state / request[:32]
    for path in state.iterdir():
        if path.is_dir() and (fresh or path != chosen):
            shutil.rmtree(path)
    chosen.mkdir(exist_ok=True)
    return chosen
