"""Executed instructions per inference on emulated Arm cores: our binary and LiteRT, by the same emulator and plugin.

python -m tests.benchmarks.arm --only resnet8 --cpus cortex-a76
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from haqnas.devices.qemu import QemuDevice
from tests.benchmarks import machine, ours, report
from tests.benchmarks.arm_root import environment, make_root, python, set_core
from tests.benchmarks.compare import BUILD, prepare_all
from tests.benchmarks.session import UnsupportedError

NETWORKS = ("resnet8", "ds_cnn", "vww", "autoencoder")
CPUS = ("cortex-a76", "cortex-a72")
SCRIPT = Path(__file__).with_name("litert_runs.py")
TIMEOUT_S = 600.0

# LiteRT 2.x on the published MLPerf Tiny files, executed instructions per inference, counted under qemu 7.2 with the
# same method; used where the Arm wheels cannot be had.
RECORDED: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "cortex-a76": {"resnet8": 1_530_000, "ds_cnn": 750_000, "vww": 1_870_000, "autoencoder": 46_000},
        "cortex-a72": {"resnet8": 4_510_000, "ds_cnn": 1_930_000, "vww": 3_610_000, "autoencoder": 91_000},
    }
)
# The start of Python varies by some millions of instructions from run to run, so the difference of two run lengths must
# be many times that.
_DIFFERENCE = 600_000_000
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions of one inference."""

    network: str
    cpu: str
    ours: int
    litert: int
    litert_source: str
    checks: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.litert / self.ours


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set in this process, whose children inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def count_litert(root: Path, model: Path, cpu: str, expected: int) -> int:
    """Median of some differences between two run lengths; `expected` instructions choose the lengths."""
    device = QemuDevice("qemu-aarch64", cpu)
    runs = max(20, _DIFFERENCE // expected)
    set_core(root, cpu)
    with _variables(environment(root)):
        few, many = (
            statistics.median(
                device.count_instructions(python(root), (str(SCRIPT), str(model), str(number)), TIMEOUT_S)
                for _ in range(_REPEATS)
            )
            for number in (2, 2 + runs)
        )
    return round((many - few) / runs)


def litert_count(network: str, cpu: str, folder: Path) -> tuple[int, str]:
    """(instructions, where the figure is from); counted once for a version of LiteRT."""
    recorded = RECORDED[cpu][network]
    try:
        installed = version("ai-edge-litert")
    except PackageNotFoundError:
        return recorded, "recorded figure: ai-edge-litert is not installed"
    kept = folder / f"litert-{installed}-{cpu}.count"
    if not kept.exists():
        try:
            root = make_root(BUILD / "arm-root")
        except UnsupportedError as reason:
            return recorded, f"recorded figure: {reason}"
        kept.write_text(str(count_litert(root, folder / "model.tflite", cpu, recorded)))
    return int(kept.read_text()), f"LiteRT {installed} under the same emulator"


def count(network: str, cpu: str) -> Count:
    """Compile for the core, check the binary, count; raises VerificationError where our binary is wrong."""
    folder, _ = prepare_all(network, ("litert",))
    artifact = ours.compile_network(network, cpu, "8", folder / f"{cpu}-w8a8")
    checks = tuple(f"{check.name}: {check.detail}" for check in ours.check(artifact))
    latency = artifact.bench(f"qemu:{cpu}")
    assert latency.instructions is not None
    litert, source = litert_count(network, cpu, folder)
    return Count(network, cpu, latency.instructions, litert, source, checks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--cpus", nargs="+", choices=CPUS, default=CPUS, metavar="CPU")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "arm.json")
    options = parser.parse_args()
    counts = [count(network, cpu) for cpu in options.cpus for network in options.only]
    print(report.counts_text(counts))
    document = {"machine": machine.describe(), "counts": [asdict(one) for one in counts]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
