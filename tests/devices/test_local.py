"""This machine as a device: files in and out, cores, and nothing that stays behind."""

import itertools
import os
import time
from pathlib import Path

import pytest

from haqnas.devices import process
from haqnas.devices.affinity import choose_cores, parse_cores, reserve_cores
from haqnas.devices.choose import device_for
from haqnas.devices.local import LocalDevice, read_host_cpu
from haqnas.errors import ConfigurationError, DeviceError, ProgramError
from haqnas.hardware import find_profile
from tests.devices.programs import running, wait_until

HOST = read_host_cpu()
ALLOWED = tuple(sorted(os.sched_getaffinity(0)))


def local(uri: str, threads: int = 1):
    return device_for(find_profile("host", HOST), uri, HOST, threads)


def test_files_go_in_and_come_back(actor: Path) -> None:
    done = LocalDevice().run(actor, ["copy"], 10.0, {"a/in.bin": b"\x00\xff"}, ["out/x.bin", "none"])
    assert (done.exit_code, done.files) == (0, {"out/x.bin": b"\x00\xff"})


def test_program_is_pinned_to_one_core_and_this_thread_is_not(actor: Path) -> None:
    cores = local("local").run(actor, ["cores"], 10.0).stdout.split()
    assert len(cores) == 1
    assert int(cores[0]) in ALLOWED
    assert os.sched_getaffinity(0) == set(ALLOWED)


def test_program_of_several_threads_gets_as_many_cores(actor: Path) -> None:
    if len(ALLOWED) < 2:
        assert local("local", 2).cores == ALLOWED
        return
    assert len(local("local", 2).run(actor, ["cores"], 10.0).stdout.split()) == 2


def test_cores_are_those_that_the_user_names(actor: Path) -> None:
    assert local(f"local?cores={ALLOWED[0]}").run(actor, ["cores"], 10.0).stdout.split() == [str(ALLOWED[0])]
    assert local("local?cores=any").run(actor, ["cores"], 10.0).stdout.split() == [*map(str, ALLOWED)]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("local?cores=9999", r"only .* may be used"),
        ("local?cores=x", "no list of cores"),
        ("local?core=0", "unknown option 'core'; local has cores"),
        ("local?cores=0&cores=0", "given twice"),
        ("local:0", "this machine is local"),
    ],
)
def test_cores_that_make_no_sense_are_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        local(uri)


def test_fewer_cores_than_threads_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"gives 1 core\(s\) to a program of 2 threads"):
        local(f"local?cores={ALLOWED[0]}", threads=2)


def test_cores_of_one_kind_are_chosen_the_fast_ones() -> None:
    little_and_big = {0: 1.8e9, 1: 1.8e9, 2: 2.4e9, 3: 2.3e9}
    assert choose_cores((0, 1, 2, 3), little_and_big, None, 1, "d") == (2, 3)
    assert choose_cores((0, 1, 2, 3), little_and_big, None, 3, "d") == (0, 1, 2, 3)
    assert choose_cores((0, 1), {}, None, 1, "d") == (0, 1)


def test_lists_of_cores() -> None:
    assert parse_cores("0-2,5\n") == (0, 1, 2, 5)
    for text in ("", "a", "1-", "-1", "1,,2"):
        with pytest.raises(ValueError, match="no list of cores"):
            parse_cores(text)


def test_measurements_at_the_same_time_take_different_cores() -> None:
    cores = (100_001, 100_002)  # that no other test asks for
    with reserve_cores(cores, 1) as first, reserve_cores(cores, 1) as second:
        assert {*first, *second} == set(cores)
        with reserve_cores(cores, 1) as third:  # none is free
            assert third == (100_002,)
    with reserve_cores(cores, 2) as both:
        assert both == cores


def test_input_of_the_program_is_closed(actor: Path) -> None:
    assert LocalDevice().run(actor, ["stdin"], 10.0).stdout == "0"


def test_child_that_a_program_leaves_behind_is_ended(actor: Path) -> None:
    started = time.monotonic()
    assert LocalDevice().run(actor, ["leave-child"], 60.0).exit_code == 0
    assert time.monotonic() - started < 30
    wait_until(lambda: not running(f"{actor} leave-child"), "the child is gone")


def test_hanging_program_is_ended_and_its_words_are_kept(actor: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"did not end within 0.3 s and was stopped; its last words: waiting"
    ):
        LocalDevice().run(actor, ["hang"], 0.3)
    wait_until(lambda: not running(f"{actor} hang"), "the program is gone")


def test_crash_is_the_programs_failure_and_a_time_limit_the_devices(actor: Path) -> None:
    with pytest.raises(ProgramError, match="SIGABRT"):
        LocalDevice().run(actor, ["crash"], 10.0)
    with pytest.raises(DeviceError) as caught:
        LocalDevice().run(actor, ["hang"], 0.3)
    assert not isinstance(caught.value, ProgramError)


def test_output_that_is_no_text_is_kept(actor: Path) -> None:
    assert LocalDevice().run(actor, ["garbage"], 10.0).stdout == "\ufffd\x00@\n@ end"


def test_program_that_writes_without_end_is_stopped(actor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_FILE_BYTES", 1 << 16)
    with pytest.raises(ProgramError, match="SIGXFSZ"):
        LocalDevice().run(actor, ["fill", "big"], 10.0)


def test_folder_without_room_for_the_input_is_told(actor: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot be written .* TMPDIR"):
        process.place_files(tmp_path / ("x" * 300), {"a": b""}, "actor")


def test_jump_of_the_wall_clock_changes_nothing(actor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600.0 * next(hours))
    assert 0 < LocalDevice().run(actor, ["fail"], 10.0).wall_s < 10


def test_no_clock_that_can_be_set_is_read() -> None:
    """Programs and devices read monotonic clocks only, so a jump of the wall clock cannot reach a figure."""
    root = Path(__file__).resolve().parents[2]
    sources = [*(root / "kernels/runtime").glob("*.[ch]"), *(root / "haqnas/devices").glob("*.py")]
    assert len(sources) > 15
    settable = ("CLOCK_REALTIME", "gettimeofday", "time.time(", "datetime.now", "time(NULL)", "time(0)")
    assert [(path.name, word) for path in sources for word in settable if word in path.read_text()] == []


def test_fingerprint_says_what_was_pinned() -> None:
    found = local(f"local?cores={ALLOWED[0]}").fingerprint()
    assert (found.arch, found.affinity, found.pinned_cores) == (HOST.arch, (ALLOWED[0],), 1)
    assert found.cpu
    assert found.cores
    assert found.key == local(f"local?cores={ALLOWED[0]}").fingerprint().key
    assert local("local?cores=any").fingerprint().pinned_cores is None
