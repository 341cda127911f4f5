"""A peer in a process of its own: prepares its files, or stays alive and runs as many inferences as it is told.

    python -m tests.benchmarks.worker prepare PEER NETWORK FOLDER
    python -m tests.benchmarks.worker run PEER VARIANT FOLDER CORES       CORES as 1 or 0,1: one thread on each

`run` prints one JSON line when it is ready, then one for each number of runs on its standard input.
"""

import importlib
import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, cast

from tests.benchmarks.float_model import read_output, signal_to_noise_db, write_float_model
from tests.benchmarks.machine import come_first
from tests.benchmarks.session import Peer, Session, UnsupportedError

WARM_UP_NS = 30_000_000


def load_peer(name: str) -> Peer:
    return cast("Peer", importlib.import_module(f"tests.benchmarks.peers.{name}"))


def prepare(peer: str, network: str, folder: Path) -> None:
    """Make the peer's files; `float` is the network itself."""
    if peer == "float":
        write_float_model(network, folder)
    else:
        load_peer(peer).prepare(network, folder)


def warm_up(session: Session) -> None:
    """At least three runs, and until caches, frequency and thread pools are as in the middle of work."""
    end_ns = time.perf_counter_ns() + WARM_UP_NS
    for _ in range(3):
        session.run_ns()
    while time.perf_counter_ns() < end_ns:
        session.run_ns()


def serve(peer: str, variant: str, folder: Path, cores: tuple[int, ...]) -> None:
    """Answer each number on standard input with the times of so many runs, until it ends."""
    loaded = load_peer(peer)
    session = loaded.open_session(variant, folder, len(cores))
    warm_up(session)
    snr_db = signal_to_noise_db(read_output(folder), session.output())
    say({"versions": dict(loaded.versions()), "snr_db": snr_db})
    for line in sys.stdin:
        warm_up(session)
        before = preemptions()
        times_ns = [session.run_ns() for _ in range(int(line))]
        say({"times_ns": times_ns, "preemptions": preemptions() - before})


def preemptions() -> int:
    """How often the scheduler took the CPU away from this process: others wanted it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    match arguments:
        case ["prepare", peer, network, folder]:
            prepare(peer, network, Path(folder))
        case ["run", peer, variant, folder, cores]:
            chosen = tuple(int(core) for core in cores.split(","))
            come_first(chosen)  # before the libraries count cores and start threads
            serve(peer, variant, Path(folder), chosen)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UnsupportedError as reason:
        say({"unsupported": str(reason)})
    except ModuleNotFoundError as missing:
        say({"unsupported": f"{missing.name} is not installed: pip install 'haqnas[bench]'"})
