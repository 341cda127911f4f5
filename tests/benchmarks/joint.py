"""Joint searches of architecture and bits by several strategies, at equal trials, to finished binaries.

    python -m tests.benchmarks.joint examples/digits.py --target x86-64-v3 --latency-budget 70% --supernet-epochs 150 \
        --trials 60 --qat-epochs 60

Every strategy gets the same shared weights (of the seed), trials and fine-tuning. `ilp` chooses bits alone, of the
whole network, and is fine-tuned as long. What counts is the accuracy of the binary's integers on all of val_data, and
the binary's latency beside uniform int8 of the whole network, taken in turns on the target's device.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from haqnas.api import compile_file
from haqnas.artifact import Artifact
from haqnas.bit_search import ILP
from haqnas.errors import HaqnasError
from haqnas.options import AUTO


@dataclass(frozen=True, slots=True)
class Run:
    """How one compilation ended."""

    accuracy: float
    latency_share: float  # of uniform int8
    search_drop: float
    time_s: float


def run(strategy: str, seed: int, options: argparse.Namespace) -> Run:
    """Compile into a folder of its own; shared weights come from the cache after the first strategy of a seed."""
    started_s = time.monotonic()
    joint = (
        {}
        if strategy == ILP
        else {"architecture": AUTO, "supernet_epochs": options.supernet_epochs, "trials": options.trials}
    )
    with tempfile.TemporaryDirectory() as folder:
        artifact = compile_file(
            options.model,
            output=Path(folder) / "out",
            target=options.target,
            latency_budget=options.latency_budget,
            strategy=strategy,
            seed=seed,
            qat_epochs=options.qat_epochs,
            val_samples=None,
            compare=True,
            max_drop=1.0,  # so that the ILP's answer is read on the split, too
            **joint,
        )
        return told(artifact, time.monotonic() - started_s)


def told(artifact: Artifact, time_s: float) -> Run:
    """What an artefact says of itself; its manifest holds all of it."""
    manifest = artifact.manifest
    assert manifest.baseline is not None
    assert manifest.baseline.comparison is not None
    assert manifest.search is not None
    assert manifest.search.drop is not None
    requested = manifest.baseline.requested
    return Run(requested.accuracy.simulated, manifest.baseline.comparison.ratio, manifest.search.drop, time_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", required=True)
    parser.add_argument("--latency-budget", default="70%")
    parser.add_argument("--supernet-epochs", type=float, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--qat-epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", default="marl,ilp,evolution,random,haq,marl-sequential")
    options = parser.parse_args()
    names = options.strategies.split(",")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in options.seeds:
        for name in names:
            try:
                found = run(name, seed, options)
            except HaqnasError as error:
                print(f"seed {seed} {name}: {error}", file=sys.stderr, flush=True)
                continue
            runs[name].append(found)
            print(f"seed {seed} {name}: {found}", file=sys.stderr, flush=True)
    print(
        f"{options.trials} trials, latency at most {options.latency_budget} of uniform int8, {options.target}"
    )
    print("| | accuracy | drop on the split | latency, of int8 | searches | seconds |")
    print("|---|---|---|---|---|---|")
    for name, found in runs.items():
        accuracy = _told([one.accuracy for one in found])
        drop = _told([one.search_drop for one in found])
        latency = _told([one.latency_share for one in found])
        time_s = statistics.median(one.time_s for one in found) if found else float("nan")
        print(f"| {name} | {accuracy} | {drop} | {latency} | {len(found)} | {time_s:.0f} |")


def _told(values: list[float]) -> str:
    if not values:
        return "-"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2%} ± {error:.2%}"


if __name__ == "__main__":
    main()
