"""Timings of kernels, kept between compilations in one SQLite file."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from haqnas.errors import ConfigurationError
from haqnas.kernels.row import Geometry

Pair = tuple[Geometry, str]  # a layer as its kernel sees it, name of a row of the kernel table

FILE = "timings.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS timings (key TEXT PRIMARY KEY, context TEXT, kernel TEXT, time_s REAL)"
_BUSY_TIMEOUT_S = 30.0  # other compilations write a few rows at a time


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of (layer, row of the kernel table) on one device, by one compiler, for one target.

    `context` names those: a timing of another context is never found.
    """

    folder: Path
    context: Mapping[str, str | int]

    def known(self, pairs: Iterable[Pair]) -> dict[Pair, float]:
        """The times that are known of `pairs`. Raises ConfigurationError where the file cannot be used."""
        keys = {self._key(*pair): pair for pair in pairs}
        with self._open() as connection:
            found = connection.execute(
                "SELECT key, time_s FROM timings WHERE key IN (SELECT value FROM json_each(?))",
                (json.dumps(list(keys)),),
            ).fetchall()
        return {keys[key]: float(time_s) for key, time_s in found}

    def put(self, times_s: Mapping[Pair, float]) -> None:
        """Keep timings, instead of older ones. Raises ConfigurationError where the file cannot be used."""
        context = json.dumps(self.context, sort_keys=True)
        rows = [(self._key(g, row), context, row, time_s) for (g, row), time_s in times_s.items()]
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO timings VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        path = self.folder / FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)) as connection, connection:
                connection.execute(_TABLE)
                yield connection
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigurationError(
                f"timings of kernels are kept in {path}, but it cannot be used: {reason}; delete it, or name another "
                "folder in XDG_CACHE_HOME"
            ) from None

    def _key(self, geometry: Geometry, row: str) -> str:
        document = json.dumps([self.context, asdict(geometry), row], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()
