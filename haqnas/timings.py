"""Timings of kernels, kept between compilations in one SQLite file."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from haqnas.kernels.row import Geometry

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

    def get(self, geometry: Geometry, row: str) -> float | None:
        """The time that is known, or None."""
        if not (self.folder / FILE).exists():
            return None
        with self._open() as connection:
            found = connection.execute(
                "SELECT time_s FROM timings WHERE key = ?", (self._key(geometry, row),)
            ).fetchone()
        return None if found is None else float(found[0])

    def put(self, times_s: Mapping[tuple[Geometry, str], float]) -> None:
        """Keep timings, instead of older ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        context = json.dumps(self.context, sort_keys=True)
        rows = [(self._key(g, row), context, row, time_s) for (g, row), time_s in times_s.items()]
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO timings VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.folder / FILE, timeout=_BUSY_TIMEOUT_S)
        try:
            with connection:  # a transaction
                connection.execute(_TABLE)
                yield connection
        finally:
            connection.close()

    def _key(self, geometry: Geometry, row: str) -> str:
        document = json.dumps([self.context, asdict(geometry), row], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()
