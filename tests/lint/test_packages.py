"""What is installed is what is in the tree."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAPPED = {f"haqnas.{folder}": folder for folder in ("cli", "cmake", "hw_profiles", "kernels")}


def folders_with_code(top: Path, package: str) -> set[str]:
    found = {package}
    for init in top.rglob("__init__.py"):
        found.add(".".join([package, *init.parent.relative_to(top).parts]))
    return found


def test_every_package_of_the_tree_is_listed():
    expected = folders_with_code(REPOSITORY / "haqnas", "haqnas")
    for package, folder in MAPPED.items():
        expected |= folders_with_code(REPOSITORY / folder, package)
    assert set(SETUPTOOLS["packages"]) == expected


def test_layer_contract_places_every_module():
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    placed = {layer.strip("()") for layer in contract["layers"]}
    modules = {path.stem for path in (REPOSITORY / "haqnas").glob("*.py")} - {"__init__"}
    modules |= {name.split(".")[1] for name in SETUPTOOLS["packages"] if name.count(".") == 1}
    assert modules <= placed


def test_cmake_package_has_the_version_of_the_project():
    text = (REPOSITORY / "cmake" / "haqnasConfigVersion.cmake").read_text()
    assert f"set(PACKAGE_VERSION {PROJECT['project']['version']})" in text


@pytest.mark.slow
def test_wheel_holds_profiles_and_runtime_sources(tmp_path: Path):
    command = "from setuptools import setup; setup()"
    build = ["bdist_wheel", "--bdist-dir", str(tmp_path / "bdist"), "--dist-dir", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-c", command, "--quiet", "build", "--build-base", str(tmp_path / "build"), *build],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in SETUPTOOLS["packages"]:
        folder = REPOSITORY / MAPPED.get(package, package.replace(".", "/"))
        expected = {file.name for file in folder.glob("*") if file.suffix in {".py", ".toml", ".cmake"}}
        installed = {
            name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == package.replace(".", "/")
        }
        assert expected <= installed, package
    runtime = REPOSITORY / "kernels" / "runtime"
    for source in (p for p in runtime.rglob("*") if p.suffix in {".c", ".h", ".S", ".inc"}):
        assert f"haqnas/kernels/runtime/{source.relative_to(runtime)}" in names
