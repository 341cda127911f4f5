"""Where studies are kept: a journal file, or a database that is named by a URL.

A journal is written one line at a time under a lock that the kernel takes from a process that dies, so that a kill at
any moment costs at most the line that was being written.
"""

import fcntl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from haqnas.errors import ConfigurationError

HEARTBEAT_S = 15  # a database is told so often that a trial is worked on,
GRACE_S = 60  # and after so long without a word it is another worker's to take

Made = TypeVar("Made")


class _KernelLock(BaseJournalFileLock):
    """Optuna's own locks are files that outlive a process which is killed; they are waited for, half a minute long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = None

    def acquire(self) -> bool:
        stream = self._path.open("w")
        fcntl.flock(stream, fcntl.LOCK_EX)
        self._held = stream
        return True

    def release(self) -> None:
        self._held.close()


def open_journal(path: Path) -> BaseStorage:
    """The storage in the file `path`, which is made where there is none; a line that a kill cut short is taken away."""
    lock = _KernelLock(path.with_name(f"{path.name}.lock"))
    lock.acquire()
    try:
        text = path.read_bytes() if path.exists() else b""
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            with path.open("r+b") as stream:
                stream.truncate(whole)
    finally:
        lock.release()
    return quietly(lambda: JournalStorage(JournalFileBackend(str(path), lock)))


def open_database(url: str) -> BaseStorage:
    """The storage of an Optuna database, such as postgresql://user@host/name; raises ConfigurationError."""
    with taught_storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return quietly(lambda: RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S))


def shown(place: str) -> str:
    """A URL without its password."""
    try:
        return str(make_url(place).render_as_string(hide_password=True))
    except ArgumentError:
        return place


@contextmanager
def taught_storage_errors(place: str) -> Iterator[None]:
    """Turn what a database, or its driver, refuses into a ConfigurationError."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"--study {shown(place)}: its driver is not installed ({error}); "
            "for PostgreSQL: pip install 'psycopg[binary]'"
        ) from error
    except (SQLAlchemyError, OptunaError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigurationError(
            f"--study {shown(place)} cannot be used: {reason}; it is an Optuna storage, such as "
            "postgresql://user@host/name or sqlite:////folder/study.db. Trials that are finished are kept"
        ) from error


def quietly(make: Callable[[], Made]) -> Made:
    """Without Optuna's notes on stderr."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return make()
    finally:
        optuna.logging.set_verbosity(before)
