"""Studies in a real PostgreSQL: two commands with workers share one, and one that dies is replaced."""

import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from haqnas.search.study import Place, Study
from haqnas.search.workers import play_all
from tests.search.games import DECISIONS, NEVER, game
from tests.search.postgres import postgres


@pytest.fixture(scope="module")
def url():
    with tempfile.TemporaryDirectory(prefix="haqnas-pg-") as folder:  # a socket's path is short
        Path(folder).chmod(0o755)
        with postgres(Path(folder) / "server") as found:
            yield found


def _command(url, owner, made, num_workers):
    def run():
        os.setsid()
        study = Study(Place(None, url, owner), "net marl", DECISIONS)
        play_all(study, made, num_workers, NEVER, lambda _: None)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_commands_share_a_study_and_one_that_is_killed_leaves_nothing_undone(url, tmp_path, monkeypatch):
    monkeypatch.setattr("haqnas.search.storage.HEARTBEAT_S", 1)
    monkeypatch.setattr("haqnas.search.storage.GRACE_S", 3)
    log, count = tmp_path / "log", 30
    made = game("marl", count, evaluate_s=0.05, log=log)
    killed = _command(url, "killed", made, 1)
    while not log.exists() or len(log.read_text().splitlines()) < 6:
        time.sleep(0.01)
    others = [_command(url, owner, made, 2) for owner in ("one", "two")]
    os.killpg(killed.pid, signal.SIGKILL)
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    reader = Study(Place(None, url, "reader"), "net marl", DECISIONS)
    records = reader.records()
    reader.close()
    assert [record.state for record in records] == ["done"] * count
    assert len({record.action for record in records}) == count
    begins = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    assert len(set(begins)) == count
    assert len(begins) <= count + 1  # again only what the killed command was at
    assert {record.facts["owner"] for record in records} == {"killed", "one", "two"}
