"""The examples of haqnas in other pipelines run and say what they should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

import haqnas
from tests.conftest import require_program

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"


def run(*command: object, given: str = "", cache: Path | None = None) -> str:
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    done = subprocess.run(
        list(map(str, command)),
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_backend_classifies_as_well_as_the_float_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zig = (
        os.environ.get("ZIG_GLOBAL_CACHE_DIR")
        or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "zig"
    )
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(zig))  # or zig would build a C library again
    text = run(sys.executable, EXAMPLES / "torch_backend.py", cache=tmp_path)
    shares = [float(share) for share in re.findall(r"([\d.]+)% of 500 images", text)]
    assert len(shares) == 2
    assert shares[1] >= shares[0] - 1.5
    assert list((tmp_path / "haqnas" / "torch_compile").glob("*/lib/*.so"))


def test_fx_passes_print_the_layers_and_agree() -> None:
    text = run(sys.executable, EXAMPLES / "fx_passes.py")
    assert "stem.0" in text
    assert "classifier" in text
    agreement = re.search(r"agreement +([\d.]+)% of 500", text)
    assert agreement is not None
    assert float(agreement[1]) >= 98


def test_relax_pass_agrees_with_the_executable(tmp_path: Path) -> None:
    require_program("g++", "g++")
    text = run(sys.executable, EXAMPLES / "relax_pass.py", tmp_path)
    assert "same class as the executable: 200 of 200" in text


def test_cpp_program_classifies_as_the_executable_does(tmp_path: Path) -> None:
    cmake = require_program("cmake", "cmake")
    require_program("g++", "g++")
    artifact = haqnas.compile_file(str(EXAMPLES / "digits.py"), output=tmp_path / "digits", val_samples=50)
    package = run(sys.executable, "-m", "haqnas.cli.main", "cmake-dir").strip()
    build = tmp_path / "build"
    run(
        cmake,
        "-S",
        EXAMPLES / "cpp",
        "-B",
        build,
        f"-Dhaqnas_DIR={package}",
        f"-DDIGITS={artifact.directory}",
    )
    run(cmake, "--build", build)
    images = load_digits().images[:50]
    given = "\n".join(" ".join(map(str, image.ravel())) for image in images)
    (logits,) = artifact.run((images[:, None] / 16).astype("float32"))
    assert list(map(int, run(build / "classify", given=given).split())) == list(logits.argmax(1))
