"""Every network of the zoo: integer graph in PyTorch = binary on this machine = Arm binary under qemu."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import haqnas
from haqnas.artifact import CONSTANTS, GRAPH, compare_outputs, decode_arrays, run_reference
from haqnas.devices.records import quantize_inputs, run_records
from haqnas.rewrite.serialize import load_graph
from tests.zoo import ZOO

CALIBRATION_COUNT = 16
RECORDS = 3
FLOAT_ISLANDS = {"small_vit"}  # layer norm, softmax; all other networks are integers throughout
LOW_BITS = [("ds_cnn", "w4a8"), ("resnet20", "w2a4"), ("mobilenet_v2", "w3a4")]


def compile_for(target: str, name: str, bits: str, folder: Path, threads: int = 1) -> haqnas.Artifact:
    model, example_inputs = ZOO[name]()
    shape = (CALIBRATION_COUNT, *example_inputs[0].shape[1:])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(images, torch.zeros(CALIBRATION_COUNT, dtype=torch.int64))
    return haqnas.compile(
        model,
        example_inputs,
        target=target,
        bits=bits,
        compare=False,
        calibration_data=data,
        output=folder / target,
        name=name,
        formats=("exe",),
        threads=threads,
    )


def check_target(artifact: haqnas.Artifact, rng: np.random.Generator) -> list[np.ndarray]:
    """Outputs of the binary on fresh inputs, once they are compared with the integer graph's."""
    manifest = artifact.manifest
    reals = [rng.standard_normal((RECORDS, *info.shape[1:]), np.float32) for info in manifest.inputs]
    records = quantize_inputs(reals, manifest.inputs)
    constants = decode_arrays(artifact.directory / CONSTANTS)
    graph = load_graph((artifact.directory / GRAPH).read_text(), constants)
    expected = run_reference(graph, records, manifest.inputs)
    device = artifact.device()
    assert device is not None
    given = run_records(artifact.executable, records, manifest.outputs, device, timeout_s=120)
    compare_outputs(given, expected, manifest, f"the binary on {device.uri}", "the integer graph")
    assert all(np.isfinite(output).all() and np.ptp(output) > 0 for output in given)
    return list(given)


def check_both(name: str, bits: str, folder: Path, seed: int) -> None:
    host = compile_for("host", name, bits, folder)
    arm = compile_for("arm-cpu", name, bits, folder)
    assert host.manifest.is_exact == arm.manifest.is_exact == (name not in FLOAT_ISLANDS)
    on_host = check_target(host, np.random.default_rng(seed))
    on_arm = check_target(arm, np.random.default_rng(seed))
    if host.manifest.is_exact:
        assert all(
            np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in zip(on_host, on_arm, strict=True)
        )
    for artifact in (host, arm):
        assert artifact.executable.stat().st_size <= artifact.manifest.sizes.packed_weight_bytes + 100_000


@pytest.mark.arm
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ZOO))
def test_binaries_equal_the_integer_graph(name, tmp_path, seed):
    check_both(name, "8", tmp_path, seed)


@pytest.mark.arm
@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), LOW_BITS)
def test_binaries_with_few_bits_equal_the_integer_graph(name, bits, tmp_path, seed):
    check_both(name, bits, tmp_path, seed)
