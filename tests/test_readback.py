"""Read back: the bits of every layer are found in the bytes of a binary, and any other weights or claims are told."""

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import haqnas
from haqnas import artifact as artefacts
from haqnas.codegen.layer_table import ALIGNMENT, MAGIC, encode_table, find_table
from haqnas.codegen.lower import lower
from haqnas.codegen.program import Program
from haqnas.codegen.split import Cutting
from haqnas.devices.local import read_host_cpu
from haqnas.errors import VerificationError
from haqnas.hardware import find_profile
from haqnas.inspection import inspect
from haqnas.manifest import LayerRow, Manifest, encode_manifest
from haqnas.quantspec import QuantSpec
from haqnas.readback import FoundLayer, read_layers
from haqnas.space.policy import Policy
from tests.rewrite.pipeline import run_stages
from tests.small_net import Net


class AllKinds(nn.Module):
    """A layer of each kind that weights are packed for: planes, image, depthwise, grouped, one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 192, 3, padding=1)
        self.depthwise = nn.Conv2d(192, 192, 3, padding=1, groups=192)
        self.grouped = nn.Conv2d(192, 64, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(64, 24, 2, stride=2)
        self.linear = nn.Linear(24, 130)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.wide(torch.relu(self.first(x))))
        x = torch.relu(self.grouped(torch.relu(self.depthwise(x))))
        return self.linear(torch.relu(self.up(x)).mean((2, 3)))


LAYERS = ["first", "wide", "depthwise", "grouped", "up", "linear"]


@functools.cache
def program(target: str, bits: str) -> Program:
    torch.manual_seed(0)
    graph = run_stages(AllKinds(), (3, 14, 14), bits=bits, batch=2).integer
    return lower(graph, find_profile(target, read_host_cpu()), "net")


def in_a_file(program: Program) -> bytes:
    """As a linker lays it out, between other things."""
    return bytes(3 * ALIGNMENT) + encode_table(program) + program.constants + b"behind"


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a8", "w2a4", "w1a8"])
@pytest.mark.parametrize(
    "target", ["x86-64-v3", "x86-amx", "x86-avx512-vnni", "cortex-a72", "cortex-a76", "riscv64"]
)
def test_the_bits_of_every_layer_are_found_in_its_bytes(target: str, bits: str) -> None:
    made = program(target, bits)
    found = read_layers(in_a_file(made), made, "net")
    assert [(layer.name, layer.emitted) for layer in found] == [(name, bits) for name in LAYERS]


def test_parts_for_threads_with_weights_of_their_own_are_found() -> None:
    torch.manual_seed(0)
    graph = run_stages(nn.Linear(1024, 2000), (1024,), bits="w4a8", batch=2).integer
    profile = find_profile("x86-avx512-vnni", read_host_cpu())
    made = lower(graph, profile, "net", cutting=Cutting(2))
    shares = [layer.packing.shares for layer in made.layers if layer.packing is not None]
    assert any(len(share) > 1 for share in shares)
    assert {layer.emitted for layer in read_layers(in_a_file(made), made, "net")} == {"w4a8"}


def with_a_bit_flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-amx", "cortex-a72"])
@pytest.mark.parametrize("bits", ["w8a8", "w3a8"])
def test_each_flipped_bit_of_the_weights_is_found(target: str, bits: str) -> None:
    made = program(target, bits)
    data = in_a_file(made)
    table = find_table(data, "net", "net")
    for row in table.rows:
        place = table.constants_offset_bytes + row.offset_bytes + row.packed_bytes // 2
        damaged = with_a_bit_flipped(data, place)
        found = {layer.name: layer.emitted for layer in read_layers(damaged, made, "net")}
        assert found == {name: None if name == row.name else bits for name in LAYERS}


def test_width_is_that_of_the_bytes_and_not_what_the_table_says() -> None:
    """A binary whose table claims 4 bits, over weights that were packed in 8."""
    made = program("x86-64-v3", "w8a8")
    lying = dataclasses.replace(
        made, layers=tuple(dataclasses.replace(layer, weight_bits=4) for layer in made.layers)
    )
    assert {layer.emitted for layer in read_layers(in_a_file(lying), made, "net")} == {"w8a8"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data.replace(b"HAQNAS-LAYERS", b"HAQNAS-LAYERX"), "holds no table"),
        (lambda data: with_a_bit_flipped(data, data.index(b"\n", data.index(MAGIC.encode())) + 5), "damaged"),
        (lambda data: data[:-5000], "table of layers is damaged"),
    ],
)
def test_damaged_table_is_told(damage: Callable[[bytes], bytes], words: str) -> None:
    made = program("x86-64-v3", "w8a8")
    with pytest.raises(VerificationError, match=words):
        read_layers(damage(in_a_file(made)), made, "net")


# Artefacts


def compile_net(output: Path, bits: str | Policy, **options: object) -> haqnas.Artifact:
    torch.manual_seed(0)
    inputs = (torch.zeros(1, 2, 6, 6),)
    return haqnas.compile(Net(), inputs, output=output, name="net", bits=bits, compare=False, **options)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> haqnas.Artifact:
    return compile_net(tmp_path_factory.mktemp("eight") / "out", "8", target="x86-64-v3", device="table")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> haqnas.Artifact:
    policy = Policy(QuantSpec(8, 8), {"conv": QuantSpec(4, 8)})
    return compile_net(tmp_path_factory.mktemp("four") / "out", policy, target="x86-64-v3", device="table")


@pytest.fixture
def copied(four: haqnas.Artifact, tmp_path: Path) -> haqnas.Artifact:
    """A copy that a test may change."""
    shutil.copytree(four.directory, tmp_path / "copy")
    return haqnas.load(tmp_path / "copy")


def resign(artifact: haqnas.Artifact, layers: tuple[LayerRow, ...]) -> haqnas.Artifact:
    """With `layers` in the manifest, and all hashes as they are now: only what files mean is left to find."""
    files = {name: artefacts.file_sha256(artifact.directory / name) for name in artifact.manifest.files}
    manifest: Manifest = dataclasses.replace(artifact.manifest, files=files, layers=layers)
    (artifact.directory / "manifest.json").write_bytes(encode_manifest(manifest))
    return haqnas.load(artifact.directory)


def changed(artifact: haqnas.Artifact, name: str, **fields: object) -> tuple[LayerRow, ...]:
    return tuple(
        dataclasses.replace(row, **fields) if row.name == name else row for row in artifact.manifest.layers
    )


def test_inspection_reads_what_the_binary_holds(four: haqnas.Artifact) -> None:
    inspection = inspect(four)
    found = {layer.name: layer for layer in inspection.found if layer is not None}
    assert {name: layer.emitted for name, layer in found.items()} == {"conv": "w4a8", "linear": "w8a8"}
    conv = next(row for row in inspection.rows if row.name == "conv")
    assert found["conv"].reader == "hq_unpack_w4"
    assert found["conv"].packed_bytes == conv.packed_bytes
    assert inspection.times is not None
    assert (inspection.times.kind, inspection.times.unit) == ("predicted", "s")
    assert all(amount is not None and amount > 0 for amount in inspection.times.amounts)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("conv", {"emitted": "w8a8"}, "layer 'conv': the manifest says the emitted bits w8a8, .* holds w4a8"),
        ("linear", {"simulated": "w4a8"}, "layer 'linear': the manifest says that w4a8 was simulated"),
        ("linear", {"kernel": "dot/avx2/4x16"}, "layer 'linear': the manifest says the kernel"),
        ("conv", {"packed_bytes": 1}, "layer 'conv': the manifest says packed bytes 1"),
    ],
)
def test_wrong_entry_of_the_manifest_is_found(
    copied: haqnas.Artifact, name: str, fields: dict[str, object], words: str
) -> None:
    wrong = resign(copied, changed(copied, name, **fields))
    for read in (wrong.verify, lambda: inspect(wrong)):
        with pytest.raises(VerificationError, match=words):
            read()


def test_binary_of_other_bits_is_found(copied: haqnas.Artifact, eight: haqnas.Artifact) -> None:
    shutil.copy(eight.executable, copied.executable)
    with pytest.raises(
        VerificationError, match=r"layer 'conv': what .*bin/net holds for it .* is not the weights"
    ):
        inspect(resign(copied, copied.manifest.layers))


def test_library_of_other_bits_is_found(copied: haqnas.Artifact, eight: haqnas.Artifact) -> None:
    """Also where the executable is right."""
    library = Path("lib") / "libnet.a"
    shutil.copy(eight.directory / library, copied.directory / library)
    with pytest.raises(VerificationError, match=r"layer 'conv': what .*libnet\.a holds"):
        resign(copied, copied.manifest.layers).verify()


def test_artefact_of_another_haqnas_is_not_called_wrong(copied: haqnas.Artifact) -> None:
    manifest = dataclasses.replace(
        copied.manifest, versions={**copied.manifest.versions, "haqnas_source": "0"}
    )
    (copied.directory / "manifest.json").write_bytes(encode_manifest(manifest))
    other = haqnas.load(copied.directory)
    assert {check.name: check.result for check in other.verify()}["layers"] == "not run"
    inspection = inspect(other)
    assert (inspection.is_read, set(inspection.found)) == (False, {None})


# Differences


def test_differences_are_in_the_manifest(four: haqnas.Artifact) -> None:
    found = {row.name: row.differences for row in four.manifest.layers}
    assert found["linear"] == ()
    assert found["conv"] == (
        "its weights are stored in 4 bits and unpacked to 8 in memory at each run (hq_unpack_w4)",
    )


def test_strict_bits_refuse_a_difference_and_ship_nothing(tmp_path: Path) -> None:
    policy = Policy(QuantSpec(8, 8), {"conv": QuantSpec(4, 8)})
    with pytest.raises(VerificationError, match=r"strict bits: .*:\n  conv: its weights .*unpacked"):
        compile_net(tmp_path / "out", policy, target="x86-64-v3", device="table", strict_bits=True)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_strict_bits_pass_where_there_is_no_difference(tmp_path: Path) -> None:
    artifact = compile_net(tmp_path / "out", "8", device="table", target="x86-64-v3", strict_bits=True)
    assert {row.differences for row in artifact.manifest.layers} == {()}


class Branches(nn.Module):
    """One value that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(channels, 8, 1) for channels in (2, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.left(x) + self.right(x)


def test_value_that_is_stored_wider_than_requested_is_a_difference(tmp_path: Path) -> None:
    policy = Policy(QuantSpec(8, 8), {"left": QuantSpec(8, 4)})
    artifact = haqnas.compile(
        *(Branches(), (torch.zeros(1, 2, 6, 6),)),
        output=tmp_path / "out",
        bits=policy,
        formats=("a",),
        compare=False,
    )
    found = {row.name: row.differences for row in artifact.manifest.layers if row.requested}
    assert {name: len(texts) for name, texts in found.items()} == {"stem": 0, "left": 1, "right": 0}
    assert "stored in 8 bits" in found["left"][0]
    assert "narrowed to 4" in found["left"][0]


def test_found_layer_without_width_has_no_bits() -> None:
    assert FoundLayer("conv", "dot", "hq", None, 8, 0, 1).emitted is None
