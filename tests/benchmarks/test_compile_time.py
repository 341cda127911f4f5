"""Wall time and peak memory of whole compilations, each in a process of its own; time per inference here."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import haqnas

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_MEMORY_BYTES = 4 * 2**30
PROGRAM = """
import sys, haqnas
from tests.zoo import build, resnet20, resnet50
make, shape = {"resnet20": (resnet20, (1, 3, 32, 32)), "resnet50": (resnet50, (1, 3, 224, 224))}[sys.argv[1]]
model, inputs = build(make, shape)
haqnas.compile(model, inputs, target="host", output=sys.argv[2], name=sys.argv[1], formats=("exe",))
"""

pytestmark = pytest.mark.benchmarks


def compile_in_a_process(name: str, folder: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, name, str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> None:
    """One compilation that nobody times: zig builds its C library at its first use."""
    compile_in_a_process("resnet20", tmp_path_factory.mktemp("warm"))


@pytest.mark.parametrize(("name", "limit_s"), [("resnet20", 30), ("resnet50", 150)])
def test_compile(name, limit_s, warm, benchmark, tmp_path):
    benchmark.pedantic(compile_in_a_process, args=(name, tmp_path), rounds=1)
    benchmark.extra_info["peak_memory_bytes"] = peak = (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    )
    latency = haqnas.load(tmp_path).bench()
    print(f"\n{name}: peak memory {peak / 2**30:.2f} GiB, {latency}")
    assert benchmark.stats.stats.max <= limit_s
    assert peak <= MAX_MEMORY_BYTES


def test_digits_inference(benchmark, tmp_path):
    """The executable's own clock; pytest-benchmark's column is the process that runs it 1000 times."""
    from haqnas.graph.load import load_model

    model = load_model(REPOSITORY / "examples" / "digits.py")
    artifact = haqnas.compile(
        model.model, model.example_inputs, target="host", output=tmp_path, name="digits", formats=("exe",)
    )
    latency = benchmark.pedantic(artifact.bench, kwargs={"runs": 1000}, rounds=3)
    print(f"\ndigits: {latency}")
