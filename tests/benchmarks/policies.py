"""Policies that searches chose, each timed on every target beside uniform int8: which bits pay differs from target to
target (HAQ, arXiv 1811.08886, table 1). And what the search predicted beside what its binary takes.

    python -m tests.benchmarks.policies examples/cifar10_wide.py build/wide-* --targets x86-64-v3 cortex-a72 host

The folders are artefacts of that network, compiled with a budget or `--bits auto`. Bits that lost against uniform int8,
which was shipped in their place, are timed too: they are what was chosen.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import haqnas
from haqnas.devices.comparison import Comparison, compare_latency
from haqnas.devices.latency import TimingPlan
from haqnas.graph.load import load_model
from haqnas.manifest import Manifest
from haqnas.options import check_options, split_model
from haqnas.quantspec import QuantSpec
from haqnas.settings import Settings
from haqnas.space.policy import Policy
from tests.benchmarks import machine, report
from tests.benchmarks.compare import BUILD
from tests.benchmarks.network_model import Prediction, compile_policy, end_to_end
from tests.benchmarks.ours import RUN_TIMEOUT_S

INT8 = Policy(QuantSpec(8, 8))
PLAN = TimingPlan(limit_s=10.0)


@dataclass(frozen=True, slots=True)
class Timed:
    """One policy on one target against uniform int8: how many times as fast, by each figure that there is."""

    policy: str
    target: str
    speedups: dict[str, float]  # by "time", or by "instructions" and "modelled cycles"
    packed_weight_bytes: int


def chosen_policy(manifest: Manifest, shipped: Policy) -> Policy:
    """The bits that were chosen or asked for, also where uniform int8 was shipped in their place."""
    baseline = manifest.baseline
    if baseline is None or baseline.shipped == "requested":
        return shipped
    bits = {layer: QuantSpec.parse(spec) for layer, spec in baseline.requested.bits.items()}
    return Policy(INT8.default, bits)


def speedups(comparison: Comparison) -> dict[str, float]:
    """Of `first` over `second`."""
    found: dict[str, float] = {comparison.figure: 1 / comparison.ratio}
    if comparison.cycles_ratio is not None:
        found["modelled cycles"] = 1 / comparison.cycles_ratio
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", metavar="MODEL[:BUILDER]")
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "policies.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path, builder = split_model(options.model)
    loaded = load_model(path, builder)
    timed: list[Timed] = []
    predicted: list[Prediction] = []
    for target in options.targets:
        times, predictions = _on_target(loaded.model, loaded.example_inputs, options.artifacts, target)
        timed, predicted = [*timed, *times], [*predicted, *predictions]
    print(report.policies_text(timed))
    print(report.predictions_text(predicted))
    document = {
        "machine": machine.describe(),
        "policies": [asdict(one) for one in timed],
        "predictions": [asdict(one) for one in predicted],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")


def _on_target(
    model: nn.Module, inputs: tuple[Tensor, ...], folders: Sequence[Path], target: str
) -> tuple[list[Timed], list[Prediction]]:
    """Every policy on `target`, and predictions of those that were searched for it."""
    checked = check_options("net", Settings(target=target))
    if checked.device is None:
        raise SystemExit(f"nothing here runs {target}: apt install qemu-user")
    work = BUILD / "policies" / target
    uniform = compile_policy(model, inputs, INT8, target, work / "int8")
    timed, predicted = [], []
    for folder in folders:
        given = haqnas.load(folder)
        shipped = Policy.from_json((folder / "policy.json").read_text())
        built = compile_policy(
            model, inputs, chosen_policy(given.manifest, shipped), target, work / folder.name
        )
        with machine.going_first():
            found = compare_latency(built.executable, uniform.executable, checked.device, PLAN, RUN_TIMEOUT_S)
            search = given.manifest.search
            if search is not None and given.manifest.profile.name == checked.profile.name:
                amount = end_to_end(built, checked.device)
                predicted.append(
                    Prediction(folder.name, target, 0, search.unit, search.predicted_latency, amount)
                )
        weights_bytes = built.manifest.sizes.packed_weight_bytes
        timed.append(Timed(folder.name, target, speedups(found), weights_bytes))
        print(report.policies_text(timed[-1:]), flush=True)
    return timed, predicted


if __name__ == "__main__":
    main()
