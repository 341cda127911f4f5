"""What predicted latencies are worth: policies of mixed bits by the network model beside the binaries that users get.

python -m tests.benchmarks.network_model --targets host cortex-a72 --quick
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import haqnas
from haqnas.devices.cache import KernelCache
from haqnas.devices.device import Device
from haqnas.devices.kernel_times import Kernel, KernelTime
from haqnas.devices.latency import run_batch
from haqnas.devices.local import cpu_name
from haqnas.devices.qemu import QemuDevice
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.measure import Bench, Subject, measure
from haqnas.options import check_options
from haqnas.pricing import Uniform, fit_model, layer_prices, lower_uniform, program_times
from haqnas.quantspec import QuantSpec
from haqnas.settings import Settings
from haqnas.space.policy import Policy
from tests.benchmarks import machine, report
from tests.benchmarks.compare import BUILD
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.ours import RUN_TIMEOUT_S
from tests.benchmarks.stamps import compiler_stamp

EIGHT = tuple(name for name in NETWORKS if name != "autoencoder")
TARGETS = ("host", "cortex-a72")
# Bits that are worth choosing on some target, the widest first.
SPECS = tuple(map(QuantSpec.parse, ("w8a8", "w4a8", "w3a8", "w4a4", "w2a4")))
POLICIES, QUICK_POLICIES = 4, 2  # of each network
SEED = 11
_ROUNDS, _RUNS, _ROUND_S = 5, 200, 0.3
_PREEMPTED_S = (
    2e-3  # longer runs are always preempted on a busy machine: there CPU time counts, as in kernel sets
)
_STAMP = "sources.sha256"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One network at one policy: seconds, or executed instructions where the target is emulated."""

    network: str
    target: str
    policy: int
    unit: str  # "s" | "instructions"
    predicted: float
    end_to_end: float  # of the binary

    @property
    def error(self) -> float:
        return self.predicted / self.end_to_end - 1


def mean_error(predictions: Sequence[Prediction]) -> float:
    """Mean |relative error|."""
    return statistics.mean(abs(one.error) for one in predictions)


def mixed_policies(layers: Sequence[str], count: int) -> tuple[Policy, ...]:
    """The same for every target and every run."""
    rng = random.Random(SEED)
    return tuple(Policy(SPECS[0], {name: rng.choice(SPECS) for name in layers}) for _ in range(count))


def predict_network(network: str, target: str, is_quick: bool) -> list[Prediction]:
    """Mixed policies of a network, each predicted from uniform programs and run end to end."""
    model, inputs = NETWORKS[network]()
    canonical = normalise(trace(model.eval(), inputs))
    names = [layer.name for layer in list_layers(canonical)]
    policies = mixed_policies(names, QUICK_POLICIES if is_quick else POLICIES)
    folder = BUILD / "network-model" / f"{network}-{target}"
    artifacts = [
        compile_policy(model, inputs, policy, target, folder / f"policy-{index}")
        for index, policy in enumerate(policies)
    ]
    bench = kernel_bench(target, folder)
    uniforms = [lower_uniform(canonical, [inputs], bench.profile, spec, "net") for spec in SPECS]
    with machine.going_first():
        times = _kernel_times(uniforms, bench, folder)
        measured = [end_to_end(artifact, bench.device) for artifact in artifacts]
    prices = layer_prices(canonical, uniforms, times)
    runs = program_times([(str(uniform.spec), uniform.program) for uniform in uniforms], times)
    fitted = fit_model(runs.values())
    unit = "instructions" if isinstance(bench.device, QemuDevice) else "s"
    return [
        Prediction(network, target, index, unit, prices.price(policy, fitted), amount)
        for index, (policy, amount) in enumerate(zip(policies, measured, strict=True))
    ]


def kernel_bench(target: str, folder: Path) -> Bench:
    """For kernels of `target` on its default device; times are kept in `folder`."""
    options = check_options("kernels", Settings(target=target))
    if options.device is None:
        raise SystemExit(f"nothing here runs {target}: apt install qemu-user")
    context = {"stamp": compiler_stamp(), "cpu": cpu_name(), "device": options.device.uri}
    return Bench(
        options.profile, options.linker, options.device, KernelCache(folder / "times", context), time.time
    )


def _kernel_times(uniforms: Sequence[Uniform], bench: Bench, folder: Path) -> Mapping[Kernel, KernelTime]:
    subjects = [Subject(str(uniform.spec), uniform.program) for uniform in uniforms]
    return measure(subjects, bench, folder / "kernels", lambda *_: None).times


def compile_policy(
    model: nn.Module, inputs: tuple[Tensor, ...], policy: Policy, target: str, folder: Path
) -> haqnas.Artifact:
    """Compile, or load what these very sources made of this policy before. The values of weights cost no time."""
    stamp, wanted = folder / _STAMP, compiler_stamp() + policy.to_json()
    if stamp.exists() and stamp.read_text() == wanted:
        return haqnas.load(folder / "artifact")
    data = TensorDataset(inputs[0], torch.zeros(1, dtype=torch.int64))
    artifact = haqnas.compile(
        model,
        inputs,
        target=target,
        bits=policy,
        compare=False,
        calibration_data=data,
        output=folder / "artifact",
        formats=("exe",),
        fresh=True,
    )
    stamp.write_text(wanted)
    return artifact


def end_to_end(artifact: haqnas.Artifact, device: Device) -> float:
    """Instructions of one inference, or seconds of one that nothing disturbs, by the binary's own clock."""
    if isinstance(device, QemuDevice):
        instructions = artifact.bench(device.uri).instructions
        assert instructions is not None
        return float(instructions)
    rounds = (
        run_batch(artifact.executable, device, _RUNS, _ROUND_S, "warm", RUN_TIMEOUT_S) for _ in range(_ROUNDS)
    )
    passed_s = min(map(undisturbed_s, rounds))
    if passed_s < _PREEMPTED_S:
        return passed_s
    return min(passed_s, *(_ran_s(artifact.executable, passed_s) for _ in range(_ROUNDS)))


def _ran_s(executable: Path, estimate_s: float) -> float:
    """CPU seconds of one inference: the difference of two run lengths leaves out the start of the program."""
    runs = max(10, round(_ROUND_S / estimate_s))

    def cpu_s(count: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [executable, "--repeat", str(count)]
        subprocess.run(command, check=True, capture_output=True, timeout=RUN_TIMEOUT_S)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (cpu_s(2 * runs) - cpu_s(runs)) / runs


def undisturbed_s(times_s: Sequence[float]) -> float:
    """The statistic of kernels' times: the mean of the samples from the 5th to the 30th hundredth."""
    count = len(times_s)
    return statistics.mean(sorted(times_s)[count // 20 : count - count * 7 // 10])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--only", nargs="+", choices=EIGHT, default=list(EIGHT), metavar="NETWORK")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_POLICIES} policies, not {POLICIES}")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "network-model.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Prediction] = []
    for target in options.targets:
        for network in options.only:
            predictions = predict_network(network, target, options.quick)
            print(report.predictions_text(predictions), flush=True)
            found += predictions
    print(report.errors_text(found))
    document = {"machine": machine.describe(), "predictions": [asdict(one) for one in found]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
