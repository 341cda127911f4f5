"""The cache of kernel times: contexts are apart, processes share it, damage is explained."""

import multiprocessing
from dataclasses import replace

import pytest

from haqnas.devices.cache import FILE, KernelCache, kernel_context
from haqnas.devices.fingerprint import Fingerprint
from haqnas.devices.kernel_times import KernelTime
from haqnas.errors import ConfigurationError
from tests.devices.scripted import ScriptedDevice
from tests.measured import PROFILES

ONE, TWO = ("dot", "rows=1"), ("dot", "rows=2")
TIME = KernelTime(1.5e-6, 0.1, 100)


def test_times_are_found_again_in_their_context_only(tmp_path):
    cache = KernelCache(tmp_path, {"target": "a", "cpu": "x"})
    assert cache.known() == {}
    cache.put({ONE: TIME, TWO: KernelTime(3.0, 0.0, 1)}, 1.0)
    cache.put({TWO: KernelTime(4.0, 0.0, 1)}, 2.0)
    assert KernelCache(tmp_path, {"cpu": "x", "target": "a"}).known() == {
        ONE: TIME,
        TWO: KernelTime(4.0, 0.0, 1),
    }
    assert KernelCache(tmp_path, {"target": "a", "cpu": "y"}).known() == {}


def fill(folder, first):
    cache = KernelCache(folder, {"target": "a"})
    for index in range(first, first + 50):
        cache.put({("dot", str(index)): KernelTime(float(index), 0.0, 1)}, 0.0)


def test_several_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(tmp_path, 50 * k)) for k in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    known = KernelCache(tmp_path, {"target": "a"}).known()
    assert {int(signature): time.amount for (_, signature), time in known.items()} == {
        index: float(index) for index in range(150)
    }


def test_a_damaged_file_is_explained(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    with pytest.raises(
        ConfigurationError, match=r"kernels\.sqlite, but it cannot be used: .*; delete it, or"
    ):
        KernelCache(tmp_path, {}).known()


def test_a_folder_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="XDG_CACHE_HOME"):
        KernelCache(tmp_path / "file", {}).put({ONE: TIME}, 0.0)


VERSIONS = {"haqnas_source": "1", "apache-tvm": "1", "torch": "1"}


class Board(ScriptedDevice):
    """At the same URI as any other."""

    def fingerprint(self):
        return Fingerprint(self.uri, cpu=self.cpu)


def board(cpu, uri="ssh://board"):
    made = Board(lambda *_: [], uri=uri)
    made.cpu = cpu
    return made


def test_a_context_holds_all_that_times_depend_on():
    """Another board at the same URI has other times; what does not bear on times is left out."""
    profile = PROFILES["cortex-a53"]
    base = kernel_context(profile, board("A53"), VERSIONS, 1)
    others = [
        kernel_context(replace(profile, cpu="cortex-a72"), board("A53"), VERSIONS, 1),
        kernel_context(profile, board("A72"), VERSIONS, 1),
        kernel_context(profile, board("A53", "ssh://other"), VERSIONS, 1),
        kernel_context(profile, board("A53"), VERSIONS, 2),
        kernel_context(profile, board("A53"), {**VERSIONS, "haqnas_source": "2"}, 1),
        kernel_context(profile, board("A53"), {**VERSIONS, "apache-tvm": "2"}, 1),
    ]
    assert len({KernelCache(None, context).key for context in (base, *others)}) == 1 + len(others)
    described = replace(profile, bits=("w8a8",), description="another")
    assert kernel_context(described, board("A53"), {**VERSIONS, "torch": "2"}, 1) == base
