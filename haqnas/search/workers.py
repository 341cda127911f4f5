"""Workers of a study: this process alone, or several that share it; and how a search is ended early.

Workers are forked, since networks and data of a search need not be picklable. Ctrl-C ends a search after the trials
that run; twice ends the program.
"""

import contextlib
import multiprocessing
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from haqnas.errors import DeviceError, HaqnasError
from haqnas.search.play import Game, Stop, Stopped, play
from haqnas.search.study import Record, Study

POLL_S = 0.2

Tell = Callable[[tuple[Record, ...]], None]


@contextlib.contextmanager
def interruptible(note: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one raises KeyboardInterrupt. Only where nobody else handles it."""
    is_set = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield is_set.is_set
        return

    def handle(_number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        is_set.set()
        note("interrupted: the best so far is compiled when this trial is done; Ctrl-C again to end now")

    signal.signal(signal.SIGINT, handle)
    try:
        yield is_set.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def play_all(
    study: Study, game: Game, num_workers: int, stop: Stop, tell: Tell
) -> tuple[tuple[Record, ...], Stopped]:
    """All trials of a study, by so many processes; gives the trials, and why it ended.

    Raises ConfigurationError where the storage fails, DeviceError where all workers died.
    """
    study.release()
    if num_workers > 1 and stop.reason(study.records()) is None:
        _play_forked(study, game, num_workers, stop, tell)
    # What workers that died have left is done here; where nothing is left this only says why it ended.
    stopped = play(study, game, 0, stop, tell)
    # Another command may be at the last trials of a database: both end with the same.
    while stopped in {"trials", "space"} and not all(record.is_finished for record in study.records()):
        time.sleep(POLL_S)
        stopped = play(study, game, 0, stop, tell)
    return study.records(), stopped


@dataclass(frozen=True, slots=True)
class _Worker:
    index: int
    process: BaseProcess
    errors: Connection


def _play_forked(study: Study, game: Game, num_workers: int, stop: Stop, tell: Tell) -> None:
    context = multiprocessing.get_context("fork")
    is_ended = context.Event()
    workers = [_start(context, index, study, game, stop, is_ended) for index in range(num_workers)]
    alive, died, num_told = list(workers), [], -1
    try:
        while alive:
            time.sleep(POLL_S)
            records = study.records()
            if stop.reason(records) is not None:
                is_ended.set()
            num_finished = sum(record.is_finished for record in records)
            if num_finished != num_told:
                num_told = num_finished
                tell(records)
            for worker in [worker for worker in alive if worker.process.exitcode is not None]:
                alive.remove(worker)
                _raise_its_error(worker)
                if worker.process.exitcode:
                    died.append(worker)
                    study.release(worker.index)
    finally:
        for worker in alive:
            worker.process.kill()
            worker.process.join()
            study.release(worker.index)
    if len(died) == num_workers:
        raise DeviceError(
            f"all {num_workers} workers were killed (signal {-(died[0].process.exitcode or 0)}), which is what the "
            "system does when memory runs out; use fewer --workers: the same command goes on"
        )


def _raise_its_error(worker: _Worker) -> None:
    with contextlib.suppress(EOFError):
        if worker.errors.poll():
            raise worker.errors.recv()


def _start(context: Any, index: int, study: Study, game: Game, stop: Stop, is_ended: Any) -> _Worker:
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides
        try:
            game.begin_worker()
            own = Study(study.place, study.name, study.decisions)
            play(own, game, index, Stop(stop.deadline_s, is_ended.is_set), lambda _: None)
        except Exception as error:
            sender.send(_portable(error))

    process = context.Process(target=run, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks of processes with threads
        process.start()
    sender.close()
    return _Worker(index, process, receiver)


def _portable(error: Exception) -> Exception:
    """What another process can raise; a bug with its traceback, since its class need not be known there."""
    if isinstance(error, HaqnasError):
        return type(error)(str(error))
    return RuntimeError("".join(traceback.format_exception(error)))
