"""Artefacts: any flipped byte is found, binaries run, and what cannot be done says why."""

import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import haqnas
from haqnas import artifact as artefacts
from haqnas.devices.latency import TimingPlan
from haqnas.errors import ConfigurationError, DeviceError, ProgramError, VerificationError
from haqnas.manifest import Manifest, decode_manifest, encode_manifest
from haqnas.rewrite.serialize import load_graph
from tests.small_net import Net


def compile_net(output: Path, **options: object) -> haqnas.Artifact:
    torch.manual_seed(0)
    return haqnas.compile(Net(), (torch.zeros(1, 2, 6, 6),), output=output, name="net", **options)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> haqnas.Artifact:
    return compile_net(tmp_path_factory.mktemp("host") / "out")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> haqnas.Artifact:
    """With dot product instructions."""
    return compile_net(tmp_path_factory.mktemp("arm") / "out", target="cortex-a76", formats=("exe",))


@pytest.fixture
def copied(host: haqnas.Artifact, tmp_path: Path) -> haqnas.Artifact:
    """A copy that a test may damage."""
    shutil.copytree(host.directory, tmp_path / "copy")
    return haqnas.load(tmp_path / "copy")


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


# Verification


def test_manifest_names_every_file_but_itself(host: haqnas.Artifact) -> None:
    found = {str(path.relative_to(host.directory)) for path in files_of(host.directory)}
    assert found == {*host.manifest.files, "manifest.json"}


def test_whole_artefact_passes_every_check(host: haqnas.Artifact) -> None:
    assert [(check.name, check.result) for check in host.verify()] == [
        ("files", "ok"),
        ("reference", "ok"),
        ("layers", "ok"),
        ("self test", "ok"),
        ("binary", "ok"),
    ]


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_found(host: haqnas.Artifact, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(host.directory)))
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(damaged)
        with pytest.raises(VerificationError, match="damaged"):
            artefacts.verify(host.directory)
    finally:
        path.write_bytes(content)


def test_each_byte_of_the_manifest_counts(host: haqnas.Artifact) -> None:
    data = encode_manifest(host.manifest)
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(VerificationError):
            decode_manifest(damaged, Path("manifest.json"))


def test_added_white_space_in_the_manifest_is_found(copied: haqnas.Artifact) -> None:
    path = copied.directory / "manifest.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(VerificationError, match="damaged"):
        haqnas.load(copied.directory)


def test_missing_and_shortened_files_are_found(copied: haqnas.Artifact) -> None:
    library = copied.directory / "lib" / "libnet.a"
    library.write_bytes(library.read_bytes()[:-1])
    with pytest.raises(VerificationError, match=r"libnet\.a is damaged"):
        copied.verify()
    library.unlink()
    with pytest.raises(VerificationError, match=r"libnet\.a is missing"):
        copied.verify()


def resign(
    artifact: haqnas.Artifact, change: Callable[[Manifest], Manifest] = lambda manifest: manifest
) -> None:
    """Give changed files the hashes that they have: what is left to find is what they hold."""
    files = {name: artefacts.file_sha256(artifact.directory / name) for name in artifact.manifest.files}
    manifest = change(dataclasses.replace(artifact.manifest, files=files))
    (artifact.directory / "manifest.json").write_bytes(encode_manifest(manifest))


def test_other_golden_outputs_are_found_by_the_reference(copied: haqnas.Artifact) -> None:
    path = copied.directory / artefacts.GOLDEN_OUTPUTS
    arrays = artefacts.decode_arrays(path)
    arrays["0"].view(np.uint8).reshape(-1)[0] ^= 1
    path.write_bytes(artefacts.encode_arrays(arrays))
    resign(copied)
    with pytest.raises(VerificationError, match="the integer graph in PyTorch and the golden outputs differ"):
        copied.verify()


def test_manifest_cannot_name_files_elsewhere(copied: haqnas.Artifact, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("x")
    digest = artefacts.file_sha256(outside)
    resign(
        copied, lambda manifest: dataclasses.replace(manifest, files={**manifest.files, "../secret": digest})
    )
    with pytest.raises(VerificationError, match="outside"):
        artefacts.verify(copied.directory)


def test_manifest_of_another_schema_says_so(copied: haqnas.Artifact) -> None:
    path = copied.directory / "manifest.json"
    document = json.loads(path.read_text())
    document["schema"] = 99
    path.write_text(json.dumps(document))
    with pytest.raises(VerificationError):
        haqnas.load(copied.directory)


def test_graph_that_names_other_operators_is_refused(copied: haqnas.Artifact) -> None:
    """An artefact is untrusted: its reference may call nothing but its own operators."""
    path = copied.directory / artefacts.GRAPH
    text = path.read_text().replace("haqnas.qconv2d.default", "os.system.default")
    arrays = artefacts.decode_arrays(copied.directory / artefacts.CONSTANTS)
    with pytest.raises(VerificationError):
        load_graph(text, arrays)


def test_directory_without_manifest_is_no_artefact(copied: haqnas.Artifact) -> None:
    (copied.directory / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match="no complete artefact"):
        artefacts.verify(copied.directory)


def test_no_array_file_can_hold_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", a=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(VerificationError, match="damaged"):
        artefacts.decode_arrays(tmp_path / "bad.npz")


def test_same_arrays_give_the_same_bytes() -> None:
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.zeros((2, 3), np.float32)}
    assert artefacts.encode_arrays(arrays) == artefacts.encode_arrays(dict(arrays))


# Devices


@pytest.mark.arm
def test_dot_product_build_on_a_cpu_without_it_ends_with_a_message(arm: haqnas.Artifact) -> None:
    with pytest.raises(DeviceError, match="dotprod"):
        arm.verify(device="qemu:cortex-a53")
    with pytest.raises(DeviceError, match="dotprod"):
        arm.run(np.zeros((1, 2, 6, 6), np.float32), device="qemu:cortex-a53")


@pytest.mark.arm
def test_arm_binary_gives_what_the_host_binary_gives(arm: haqnas.Artifact, host: haqnas.Artifact) -> None:
    images = np.random.default_rng(0).standard_normal((5, 2, 6, 6)).astype(np.float32)
    for one, other in zip(arm.run(images), host.run(images), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_device_the_binary_is_reported_as_not_run(
    arm: haqnas.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    checks = {check.name: check.result for check in arm.verify()}
    assert checks == {"files": "ok", "reference": "ok", "layers": "ok", "binary": "not run"}
    with pytest.raises(DeviceError, match="apt install qemu-user"):
        arm.bench()


def test_without_the_executable_the_binary_is_reported_as_not_run(tmp_path: Path) -> None:
    artifact = compile_net(tmp_path / "out", formats=("a",))
    assert [check.result for check in artifact.verify()] == ["ok", "ok", "ok", "not run"]
    with pytest.raises(ConfigurationError, match="--format exe"):
        artifact.run(np.zeros((1, 2, 6, 6), np.float32))


def test_binary_without_execute_permission_is_told(copied: haqnas.Artifact) -> None:
    copied.executable.chmod(stat.S_IRUSR)
    with pytest.raises(DeviceError, match="not executable"):
        copied.bench(plan=TimingPlan(runs=1))


def test_a_binary_that_does_not_do_its_self_test_is_at_fault_and_not_the_device(
    copied: haqnas.Artifact,
) -> None:
    copied.executable.write_text("#!/bin/sh\necho no such mode >&2\nexit 2\n")
    with pytest.raises(ProgramError, match="the self test did not run on local: no such mode"):
        artefacts.check_binary(copied, (), (), None, 60.0)


# Running


def test_records_in_one_process_give_what_single_runs_give(host: haqnas.Artifact) -> None:
    images = np.random.default_rng(1).standard_normal((4, 2, 6, 6)).astype(np.float32)
    (together,) = host.run(images)
    assert together.shape == (4, 3)
    apart = np.concatenate([host.run(images[index : index + 1])[0] for index in range(4)])
    np.testing.assert_array_equal(together, apart)


def test_binary_gives_what_the_integer_graph_gives(host: haqnas.Artifact) -> None:
    images = np.random.default_rng(2).standard_normal((8, 2, 6, 6)).astype(np.float32) * 3
    graph = load_graph(
        (host.directory / artefacts.GRAPH).read_text(),
        artefacts.decode_arrays(host.directory / artefacts.CONSTANTS),
    )
    expected = graph(torch.from_numpy(images))
    np.testing.assert_array_equal(host.run(images)[0], expected[0].numpy())


@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 2, 6, 5), (0, 2, 6, 6), ()])
def test_wrong_input_shapes_are_refused(host: haqnas.Artifact, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"must have the shape \(n, 2, 6, 6\)"):
        host.run(np.zeros(shape, np.float32))


def test_wrong_number_of_inputs_is_refused(host: haqnas.Artifact) -> None:
    image = np.zeros((1, 2, 6, 6), np.float32)
    with pytest.raises(ConfigurationError, match="has 1 inputs, but got 2"):
        host.run(image, image)


def test_bench_counts_its_runs(host: haqnas.Artifact) -> None:
    latency = host.bench(plan=TimingPlan(runs=7))
    assert (latency.kind, latency.count) == ("measured", 7)
    assert latency.median_s is not None
    assert 0 < latency.median_s < 1


@pytest.mark.arm
def test_counts_and_modelled_cycles_of_one_binary_are_equal(arm: haqnas.Artifact) -> None:
    first, second = arm.bench(), arm.bench()
    assert first == second
    assert first.cycles is not None
    assert first.cycle_model is not None
    other = arm.compare(arm)
    assert (other.ratio, other.verdict) == (1.0, "equal instructions")


def test_comparison_needs_one_device_for_both(host: haqnas.Artifact, arm: haqnas.Artifact) -> None:
    with pytest.raises(ConfigurationError, match="runs on one device"):
        host.compare(arm)


def test_executable_is_small_and_static(host: haqnas.Artifact) -> None:
    sizes = host.manifest.sizes
    assert sizes.executable_bytes is not None
    assert sizes.executable_bytes - sizes.packed_weight_bytes <= 100_000
    assert b"ld-linux" not in host.executable.read_bytes()
    assert os.access(host.executable, os.X_OK)
