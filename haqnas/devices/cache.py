"""Times of kernels, kept in one SQLite file so that nothing is measured twice; several processes may use it at once."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from haqnas.devices.device import Device
from haqnas.devices.kernel_times import Kernel, KernelTime
from haqnas.errors import ConfigurationError
from haqnas.hardware import HardwareProfile

FILE = "kernels.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS contexts (key TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS kernels (
  context TEXT NOT NULL, function TEXT NOT NULL, signature TEXT NOT NULL,
  amount REAL NOT NULL, spread REAL NOT NULL, runs INTEGER NOT NULL, seconds_since_epoch REAL NOT NULL,
  PRIMARY KEY (context, function, signature)
) WITHOUT ROWID;
"""
_BUSY_TIMEOUT_S = 60.0  # others write some hundred rows at a time


def kernel_context(
    profile: HardwareProfile, device: Device, versions: Mapping[str, str], threads: int
) -> dict[str, str]:
    """All that the time of a kernel depends on besides its function and signature.

    `versions`: those of "haqnas_source" and "apache-tvm" are read. Raises DeviceError where the device is not reached.
    """
    target = {name: value for name, value in asdict(profile).items() if name not in ("bits", "description")}
    return {
        "target": json.dumps(target, sort_keys=True, default=str),
        "device": device.uri,
        "machine": device.fingerprint().key,
        "threads": str(threads),
        "haqnas_source": versions["haqnas_source"],
        "tvm": versions["apache-tvm"],
    }


@dataclass(frozen=True, slots=True)
class KernelCache:
    """Times in one context: target, device, compiler and sources. Those of another context are never found."""

    folder: Path
    context: Mapping[str, str]

    @property
    def key(self) -> str:
        """Of the context."""
        return hashlib.sha256(json.dumps(dict(self.context), sort_keys=True).encode()).hexdigest()

    def known(self) -> dict[Kernel, KernelTime]:
        """All times of this context. Raises ConfigurationError where the file cannot be used."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT function, signature, amount, spread, runs FROM kernels WHERE context = ?", (self.key,)
            ).fetchall()
        return {(function, signature): KernelTime(*rest) for function, signature, *rest in rows}

    def put(self, times: Mapping[Kernel, KernelTime], now_s: float) -> None:
        """Keep `times`, instead of older ones; on disk when this returns. `now_s`: seconds since the epoch."""
        rows: Iterable[tuple[object, ...]] = (
            (self.key, function, signature, time.amount, time.spread, time.runs, now_s)
            for (function, signature), time in times.items()
        )
        with self._open() as connection:
            document = json.dumps(dict(self.context), sort_keys=True)
            connection.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?)", (self.key, document))
            connection.executemany("INSERT OR REPLACE INTO kernels VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
            try:
                connection.executescript(_SCHEMA)
                with connection:  # a transaction
                    yield connection
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"times of kernels are kept in {path}, but it cannot be used: {error}; delete it, or name another "
                "folder in XDG_CACHE_HOME"
            ) from None
