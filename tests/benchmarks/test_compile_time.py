"""Wall time and peak memory of whole compilations, each in a process of its own; time per inference here."""

import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import haqnas
from haqnas.codegen.lower import lower
from haqnas.devices.kernel_times import kernels_of
from haqnas.graph.layers import list_layers
from haqnas.measure import Subject, measure
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy
from tests.benchmarks.network_model import SPECS, kernel_bench
from tests.measured import canonical_network

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_MEMORY_BYTES = 4 * 2**30
MIN_KERNELS_PER_S = 8
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


@pytest.mark.parametrize("target", [pytest.param("cortex-a72", marks=pytest.mark.arm), "host"])
def test_kernels_of_a_cold_policy(target, benchmark, tmp_path):
    """Compiled, linked and measured with nothing in the cache; a kernel is a call with a shape of its own."""
    canonical, inputs = canonical_network("resnet20")
    rng = random.Random(5)
    bits = {layer.name: rng.choice(SPECS) for layer in list_layers(canonical)}
    graph = integerize(calibrate(quantize(canonical, Policy(QuantSpec(8, 8), bits)), [inputs]))
    program = lower(graph, kernel_bench(target, tmp_path).profile, "net")

    def anew():
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        bench = kernel_bench(target, folder)
        return ([Subject("mixed", program)], bench, folder / "work", lambda *_: None), {}

    benchmark.pedantic(measure, setup=anew, rounds=3)
    count = len(set(kernels_of(program)))
    benchmark.extra_info["kernels_per_s"] = rate = count / benchmark.stats.stats.min
    print(f"\n{target}: {count} kernels, {rate:.1f} a second")
    assert rate >= MIN_KERNELS_PER_S
