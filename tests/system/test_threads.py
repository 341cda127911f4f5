"""Programs for several threads, from the model to the binary: the same bytes on any number of threads."""

import json
from pathlib import Path

import numpy as np
import pytest

from haqnas.artifact import check_files, load
from haqnas.codegen import budget, split
from haqnas.devices.records import quantize_inputs
from haqnas.errors import ConfigurationError
from haqnas.options import MAX_THREADS
from tests.system.test_zoo import check_target, compile_for

THREADS = 3


@pytest.fixture
def cut_small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the zoo are small: cut what would not pay."""
    monkeypatch.setattr(budget, "LEAST_PART_NS", 20.0)
    monkeypatch.setattr(split, "LEAST_GAIN", -1e9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name", "bits"),
    [
        ("host", "resnet20", "8"),
        ("host", "mobilenet_v2", "w4a8"),
        ("host", "ds_cnn", "8"),
        ("host", "small_vit", "8"),
        pytest.param("arm-cpu", "resnet20", "8", marks=pytest.mark.arm),
    ],
)
@pytest.mark.usefixtures("cut_small_layers")
def test_any_number_of_threads_gives_the_outputs_of_the_graph(target, name, bits, tmp_path, seed):
    artifact = compile_for(target, name, bits, tmp_path, THREADS)
    assert artifact.manifest.threads == THREADS
    (expected,) = check_target(artifact, np.random.default_rng(seed))
    info = artifact.manifest.inputs[0]
    real = np.random.default_rng(seed).standard_normal((3, *info.shape[1:]), np.float32)
    (records,) = quantize_inputs([real], artifact.manifest.inputs)
    records.tofile(tmp_path / "x.bin")
    device = artifact.device()
    assert device is not None
    for threads in range(1, THREADS + 1):
        out = tmp_path / f"out{threads}"
        options = (str(tmp_path / "x.bin"), "-o", str(out), "--threads", str(threads))
        done = device.run(artifact.executable, options, 120)
        assert done.exit_code == 0, done.stderr
        assert (out / "output0.bin").read_bytes() == expected.tobytes()


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1])
def test_a_senseless_number_of_threads_is_refused(threads: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"threads are 1 to {MAX_THREADS}, but got {threads}"):
        compile_for("host", "ds_cnn", "8", tmp_path, threads)


def test_the_manifest_knows_the_threads(tmp_path: Path) -> None:
    artifact = compile_for("host", "ds_cnn", "8", tmp_path, 2)
    assert artifact.manifest.threads == 2
    assert check_files(load(artifact.directory)).result == "ok"
    document = json.loads((artifact.directory / "manifest.json").read_text())
    assert document["threads"] == 2
