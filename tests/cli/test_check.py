"""`haqnas check` and `haqnas cmake-dir`: exit codes, files, one object."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import haqnas
from haqnas.cli.main import run
from haqnas.manifest import encode_manifest
from tests.passes.networks import images, small


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    haqnas.compile(small(), (images(1, 1, 6, 6),), output=folder)
    return folder


@pytest.fixture(scope="module")
def smaller(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a baseline says that was half the size."""
    folder = tmp_path_factory.mktemp("smaller")
    manifest = haqnas.load(artefact).manifest
    sizes = replace(manifest.sizes, packed_weight_bytes=manifest.sizes.packed_weight_bytes // 2)
    (folder / "manifest.json").write_bytes(encode_manifest(replace(manifest, sizes=sizes)))
    (folder / "bin").symlink_to(artefact / "bin")
    return folder


def test_a_gate_that_holds_exits_with_0_and_writes_reports(
    artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit, markdown = tmp_path / "junit.xml", tmp_path / "check.md"
    options = [
        "--max-slowdown",
        "500%",
        "--time-limit",
        "1",
        "--junit",
        str(junit),
        "--markdown",
        str(markdown),
    ]
    assert run(["check", str(artefact), "--baseline", str(artefact), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {each["result"] for each in document["findings"]} == {"ok"}
    assert len(list(ElementTree.parse(junit).iter("testcase"))) == len(document["findings"])
    assert "haqnas check: passed" in markdown.read_text()


def test_a_regression_exits_with_3(artefact: Path, smaller: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--max-slowdown", "500%", "--time-limit", "1"]
    assert run(["check", str(artefact), "--baseline", str(smaller), *options]) == 3
    text = capsys.readouterr().out
    assert "packed weights" in text
    assert "regression" in text
    assert run(["check", str(artefact), "--baseline", str(smaller), *options, "--max-growth", "150%"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--baseline", "nowhere"], "does not exist"),
        (["--max-drop", "much"], "is no share"),
        (["--max-drop", "-1%"], "share from 0"),
    ],
)
def test_wrong_options_exit_with_2(
    options: list[str], words: str, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["check", str(artefact), "--baseline", str(artefact), *options]
    assert run(given) == 2
    assert words in capsys.readouterr().err


def test_cmake_dir_holds_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cmake-dir"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "haqnasConfig.cmake").is_file()
