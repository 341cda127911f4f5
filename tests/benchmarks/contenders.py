"""Everybody who is timed, each in a process of its own: peers stay alive, our executable starts for each turn."""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.benchmarks.ours import run_executable
from tests.benchmarks.session import UnsupportedError

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = "haqnas int8"


@dataclass(frozen=True, slots=True)
class Turn:
    """Some runs in a row."""

    times_ns: tuple[int, ...]
    preemptions: int  # how often others took the CPU meanwhile


class Runner(Protocol):
    """Runs inferences when it is asked to."""

    name: str

    def turn(self, runs: int) -> Turn: ...


@dataclass(frozen=True, slots=True)
class Executable:
    """Our static executable; it warms up by itself at each start."""

    name: str
    path: Path
    cores: tuple[int, ...]

    def turn(self, runs: int) -> Turn:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nivcsw  # of ended processes: of this one
        document = run_executable(self.path, ("--bench", str(runs)), self.cores)
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nivcsw
        return Turn(tuple(document["times_ns"]), after - before)


def worker_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.worker", *arguments]


def prepare(peer: str, network: str, folder: Path) -> str:
    """Let a peer make its files, in a process that then gives its memory back; gives why it cannot, or nothing."""
    done = subprocess.run(
        worker_command("prepare", peer, network, str(folder)),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{peer} cannot prepare {network}: {done.stderr.strip()[-2000:]}")
    for line in done.stdout.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(line)["unsupported"])
    return ""


class PeerProcess:
    """A peer in one variant, loaded and pinned to its cores; a context manager that ends the process."""

    def __init__(self, peer: str, variant: str, folder: Path, cores: Sequence[int]) -> None:
        self.name = f"{peer} {variant}"
        arguments = worker_command("run", peer, variant, str(folder), ",".join(map(str, cores)))
        self._log = (folder / f"{self.name.replace(' ', '-')}.log").open("w")
        self._process = subprocess.Popen(
            arguments,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        ready = self._read()
        self.versions: Mapping[str, str] = ready["versions"]
        self.snr_db: float = ready["snr_db"]

    def turn(self, runs: int) -> Turn:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        document = self._read()
        return Turn(tuple(document["times_ns"]), document["preemptions"])

    def _read(self) -> dict[str, Any]:
        """The next line of JSON; libraries may print others."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("{"):
                continue
            document: dict[str, Any] = json.loads(line)
            if "unsupported" in document:
                self.close()
                raise UnsupportedError(document["unsupported"])
            return document
        self.close()
        raise RuntimeError(f"{self.name} ended with code {self._process.returncode}; see {self._log.name}")

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
