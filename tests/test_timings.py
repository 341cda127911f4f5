"""Timings of kernels outlive a process; a file that cannot be used is a mistake with a way out."""

import multiprocessing
from dataclasses import replace

import pytest

from haqnas.errors import ConfigurationError
from haqnas.kernels.row import Geometry
from haqnas.timings import FILE, Timings

LAYER = Geometry("dot", 1, 64, 32, 48, (0,), 32, 0, 48, 0, 32, 0, 0, 255, 8, 8)
OTHER = replace(LAYER, channels=64)
CANNOT_BE_USED = r"kept in .*timings\.sqlite, but it cannot be used: {}; delete it, or name another folder"


def test_timings_outlive_a_process_and_other_contexts_do_not_see_them(tmp_path):
    kept = Timings(tmp_path, {"cpu": "one"})
    asked = {(LAYER, "a"), (LAYER, "b"), (OTHER, "a"), (replace(LAYER, zero_point=1), "a")}
    assert kept.known(asked) == {}
    kept.put({(LAYER, "a"): 1.5e-6, (OTHER, "a"): 2e-6, (OTHER, "b"): 3e-6})
    kept.put({(LAYER, "a"): 2.5e-6})
    assert Timings(tmp_path, {"cpu": "one"}).known(asked) == {(LAYER, "a"): 2.5e-6, (OTHER, "a"): 2e-6}
    assert Timings(tmp_path, {"cpu": "two"}).known(asked) == {}


def test_any_number_of_timings_is_one_question(tmp_path):
    times_s = {(replace(LAYER, channels=count), "a"): count * 1e-9 for count in range(1, 2000)}
    Timings(tmp_path, {}).put(times_s)
    assert Timings(tmp_path, {}).known(times_s) == times_s


@pytest.mark.parametrize("call", [lambda kept: kept.known({(LAYER, "a")}), lambda kept: kept.put({})])
def test_a_file_that_is_no_database_is_named(tmp_path, call):
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=CANNOT_BE_USED.format("file is not a database")):
        call(Timings(tmp_path, {}))


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigurationError, match=CANNOT_BE_USED.format("File exists")):
        Timings(tmp_path / "cache", {}).known({(LAYER, "a")})


def _write(folder, barrier, row):
    barrier.wait()
    for count in range(1, 51):
        Timings(folder, {}).put({(replace(LAYER, channels=count), row): count * 1e-9})


def test_processes_that_write_at_once_all_have_their_say(tmp_path):
    spawned = multiprocessing.get_context("spawn")  # as two compilations are
    barrier = spawned.Barrier(2)
    writers = [spawned.Process(target=_write, args=(tmp_path, barrier, row)) for row in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    asked = {(replace(LAYER, channels=count), row) for count in range(1, 51) for row in ("a", "b")}
    assert set(Timings(tmp_path, {}).known(asked)) == asked
