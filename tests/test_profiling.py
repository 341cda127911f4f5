"""Profiles: what a sweep finds and writes, what it keeps when it is killed, and new targets from a file alone."""

import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import haqnas
from haqnas.devices.cache import FILE
from haqnas.errors import ConfigurationError
from haqnas.hardware import load_profile
from haqnas.latency_table import read_table
from haqnas.profiling import _beats
from haqnas.quantspec import QuantSpec
from tests.zoo import ZOO

MODEL = """
import torch
from torch import nn
def build_model():
    layers = []
    for channels in (16, 24, 32, 40, 48, 56):
        layers += [nn.LazyConv2d(channels, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers)
    model(torch.zeros(1, 3, 16, 16))
    return model
def example_inputs():
    return (torch.randn(1, 3, 16, 16),)
"""


def network(name: str) -> haqnas.Network:
    model, inputs = ZOO[name]()
    return haqnas.Network(name, model.eval(), inputs)


@pytest.mark.arm
def test_a_new_target_needs_a_file_alone(tmp_path):
    mine = tmp_path / "neoverse-n1.toml"
    mine.write_text(
        'schema = 1\nname = "neoverse-n1"\ndescription = "Arm Neoverse N1"\ntriple = "aarch64-linux-musl"\n'
        'cpu = "neoverse-n1"\nfeatures = ["-crypto", "-ssbs", "-spe"]\nisas = ["neon-dotprod", "neon"]\n'
        'cpu_features = ["asimd", "crc", "dotprod", "fp16", "lse", "rcpc", "rdm"]\n'
        '\n[emulator]\nprogram = "qemu-aarch64"\ncpu = "neoverse-n1"\n'
    )
    profiled = tmp_path / "profiled.toml"
    arguments = {
        "networks": [network("ds_cnn")],
        "bits": ["w4a8", "w8a4"],
        "cache_folder": tmp_path / "cache",
    }
    made = haqnas.profile(str(mine), output=profiled, **arguments)
    assert made.table.provenance.kind == "emulated"
    assert made.legal == made.survey.legal == (QuantSpec(8, 8), QuantSpec(4, 8))
    assert made.survey.refused == {QuantSpec(8, 4): "saves neither time nor bytes against w8a8"}
    assert load_profile(profiled) == replace(load_profile(mine), bits=("w8a8", "w4a8"))
    # A profile of the profile: exactly the same text, from the cache and from new measurements.
    again = haqnas.profile(str(profiled), output=tmp_path / "again.toml", **arguments)
    assert (again.survey.measured.num_new, again.path.read_text()) == (0, profiled.read_text())
    fresh = haqnas.profile(
        str(mine), output=tmp_path / "b.toml", **(arguments | {"cache_folder": tmp_path / "b"})
    )
    assert fresh.survey.measured.num_new == made.survey.measured.num_new > 0
    assert fresh.path.read_text() == profiled.read_text()
    model, inputs = ZOO["ds_cnn"]()
    artifact = haqnas.compile(model, inputs, target=str(profiled), output=tmp_path / "out")
    assert artifact.manifest.profile.name == "neoverse-n1"
    latency = artifact.manifest.latency
    assert (latency.kind, latency.warnings) == ("predicted", ())
    assert latency.instructions == pytest.approx(artifact.bench().instructions, rel=0.03)


@pytest.mark.arm
def test_a_table_predicts_without_an_emulator(tmp_path, monkeypatch):
    """Other shapes than those that were recorded are estimated, and the figure says so."""
    path = tmp_path / "a53.toml"
    networks = [network("ds_cnn"), network("resnet20")]
    haqnas.profile(
        "cortex-a53", output=path, networks=networks, bits=["w4a8"], cache_folder=tmp_path / "cache"
    )
    model, inputs = ZOO["resnet18"]()
    emulated = haqnas.compile(model, inputs, target=str(path), output=tmp_path / "a").bench().instructions
    monkeypatch.setenv("PATH", str(tmp_path))
    made = haqnas.compile(model, inputs, target=str(path), output=tmp_path / "b")
    latency = made.manifest.latency
    assert latency is not None
    assert latency.kind == "predicted"
    assert "shapes that the table does not have; haqnas profile --models" in latency.warnings[0]
    assert latency.instructions == pytest.approx(emulated, rel=0.25)


def test_the_device_table_needs_a_table(tmp_path):
    model, inputs = ZOO["ds_cnn"]()
    bare = tmp_path / "mine.toml"
    bare.write_text(
        'schema = 1\nname = "mine"\ndescription = "d"\ntriple = "aarch64-linux-musl"\ncpu = "cortex-a53"\n'
    )
    with pytest.raises(ConfigurationError, match="has no latency table; make one with haqnas profile"):
        haqnas.compile(model, inputs, target=str(bare), output=tmp_path / "out", device="table")


def test_two_profiles_of_this_machine_agree(tmp_path):
    """On a machine that does other work meanwhile."""
    tables = [
        haqnas.profile(
            "host",
            output=tmp_path / f"{name}.toml",
            networks=[network("resnet20")],
            bits=["w4a8"],
            cache_folder=tmp_path / name,
        ).table
        for name in "ab"
    ]
    first, second = (table.kernels for table in tables)
    assert first.keys() == second.keys()
    differences = [
        abs(first[kernel].amount - second[kernel].amount) / (first[kernel].amount + second[kernel].amount) * 2
        for kernel in first
    ]
    assert statistics.median(differences) <= 0.05


@pytest.mark.arm
def test_tables_in_the_formats_of_others_are_written(tmp_path):
    made = haqnas.profile(
        "cortex-a53",
        output=tmp_path / "a53.toml",
        networks=[network("mobilenet_v2")],
        bits=["w4a8"],
        cache_folder=tmp_path / "cache",
        haq_folder=tmp_path / "haq",
        ofa_file=tmp_path / "blocks.yaml",
    )
    array = np.load(tmp_path / "haq" / "mobilenet_v2_latency_table.npy")
    order = (tmp_path / "haq" / "mobilenet_v2_latency_table.layers.txt").read_text().split()
    assert array.shape == (len(order), 8, 8)
    prices = made.survey.networks[0].prices
    assert array[3, 7, 7] == pytest.approx(prices.layers[order[3]][QuantSpec(8, 8)].amount, rel=0.01)
    assert "unit: instructions" in (tmp_path / "blocks.yaml").read_text()
    assert len(made.exported) == 2


def test_more_networks_are_added_to_a_profile(tmp_path):
    path, cache = tmp_path / "mine.toml", tmp_path / "cache"
    one = haqnas.profile("host", output=path, networks=[network("ds_cnn")], bits=["w4a8"], cache_folder=cache)
    two = haqnas.profile(
        "host", output=path, networks=[network("autoencoder")], bits=["w2a8"], cache_folder=cache
    )
    assert (one.replaced, two.replaced) == (None, None)
    verdicts = {*two.table.refused, *map(str, two.legal)}
    assert verdicts == {"w8a8", "w4a8", "w2a8"}
    assert load_profile(path).bits == tuple(map(str, two.legal))
    assert two.table.model.num_programs == 4
    assert two.table.provenance.networks == ("ds_cnn", "autoencoder")
    assert two.table.kernels.keys() > one.table.kernels.keys()
    assert read_table(path).kernels.keys() == two.table.kernels.keys()


def profile_command(folder, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "ZIG_GLOBAL_CACHE_DIR": zig_cache()}
    command = [
        sys.executable,
        "-m",
        "haqnas.cli.main",
        "profile",
        "-o",
        str(folder / "mine.toml"),
        *arguments,
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def zig_cache() -> str:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/"), ".cache")  # noqa: PTH118
    return os.environ.get("ZIG_GLOBAL_CACHE_DIR", os.path.join(home, "zig"))  # noqa: PTH118


def rows(folder) -> dict[tuple[str, str], float]:
    path = folder / "cache" / "haqnas" / FILE
    if not path.exists():
        return {}
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("SELECT function, signature, seconds_since_epoch FROM kernels").fetchall()
    except sqlite3.OperationalError:  # the table is being made
        return {}
    finally:
        connection.close()
    return {(function, signature): when for function, signature, when in found}


@pytest.mark.slow
def test_a_killed_profile_goes_on_and_measures_nothing_twice(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    bits = "w6a8,w4a8,w3a8,w2a8,w8a4,w4a4,w3a4,w2a4"
    arguments = ("--models", str(tmp_path / "model.py"), "--bits", bits, "--json", "--quiet")
    process = profile_command(tmp_path, *arguments)
    deadline_s = time.monotonic() + 120
    while not (kept := rows(tmp_path)) and time.monotonic() < deadline_s and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert kept
    kept = rows(tmp_path)
    done = profile_command(tmp_path, *arguments)
    stdout, stderr = done.communicate(timeout=300)
    assert done.returncode == 0, stderr
    document = json.loads(stdout)
    found = rows(tmp_path)
    assert {kernel: found[kernel] for kernel in kept} == kept  # none was measured again
    assert document["new_kernels"] == len(found) - len(kept) > 0
    again = profile_command(tmp_path, *arguments)
    stdout, stderr = again.communicate(timeout=300)
    assert (again.returncode, json.loads(stdout)["new_kernels"]) == (0, 0), stderr


def test_bits_that_save_nothing_are_beaten_by_wider_ones_only():
    specs = [QuantSpec(8, 8), QuantSpec(4, 8), QuantSpec(8, 4)]
    assert not _beats([], specs[1], specs[2])
    assert not _beats([], specs[1], specs[0])
    assert _beats([], specs[0], specs[1])  # of no network nothing is saved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "mine.txt"}, "a profile is a file such as my-board.toml"),
        ({"bits": ["w99a8"]}, "weight bits must be 1 to 8"),
        ({"device": "nowhere"}, "unknown device"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(tmp_path, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        haqnas.profile("host", **({"output": tmp_path / "mine.toml"} | arguments))


def test_a_network_that_cannot_be_quantized_is_refused(tmp_path):
    class Dynamic(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(haqnas.errors.UnsupportedModelError):
        haqnas.profile(
            "host",
            output=tmp_path / "mine.toml",
            networks=[haqnas.Network("dynamic", Dynamic(), (torch.randn(1, 4),))],
            cache_folder=tmp_path,
        )
    assert not (tmp_path / "mine.toml").exists()
