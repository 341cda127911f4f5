"""Linking programs for several threads, and programs of several threads."""

import json
import subprocess
from pathlib import Path

import pytest

from haqnas.codegen.budget import THREADED_BYTES
from haqnas.codegen.link import _zig
from tests.codegen.tiny_build import HOST, RUNTIME_TESTS, Build, build, run
from tests.runtime.tiny import threaded_program


def test_threads_are_chosen_when_the_program_runs(host: Build, threaded: Build) -> None:
    executable = threaded.folder / "bin" / "tiny"
    for options in ([], ["--threads", "1"], ["--threads", "4"]):
        assert "every output byte" in run(executable, "--golden", *options).stdout
        times = json.loads(run(executable, *options, "--bench", "3").stdout)
        assert times["threads"] == int(options[1] if options else 4)
    assert "from 1 to 4" in run(executable, "--golden", "--threads", "5", code=2).stderr
    assert "--threads" not in run(host.executable(), "--help").stdout


def test_a_program_for_one_thread_holds_no_team(host: Build, threaded: Build) -> None:
    one, several = (made.folder / "bin" / "tiny" for made in (host, threaded))
    assert 0 < several.stat().st_size - one.stat().st_size <= THREADED_BYTES
    members = [run(*_zig("ar"), "t", made.folder / "lib" / "libtiny.a").stdout for made in (host, threaded)]
    assert ["team" in names for names in members] == [False, True]


@pytest.mark.arm
def test_threads_of_an_arm_binary(tmp_path: Path, qemu_aarch64: str) -> None:
    executable = build(tmp_path, "aarch64-linux-musl", threaded_program()).executable()
    for threads in ("1", "2", "4"):
        assert "ok" in run(qemu_aarch64, executable, "--golden", "--threads", threads).stdout


@pytest.mark.parametrize("kind", ["host", "threaded"])
def test_two_threads_of_a_c_program_share_the_library(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    host: Build = request.getfixturevalue(kind)
    user = tmp_path / "threads"
    compiler = [*host.linker.command, "-target", HOST, "-static", "-O2", f"-I{host.folder}"]
    library = [f"-L{host.folder / 'lib'}", "-ltiny", "-lm", "-pthread"]
    subprocess.run([*compiler, RUNTIME_TESTS / "threads.c", *library, "-o", user], check=True)
    assert "both threads are right" in run(user).stdout
