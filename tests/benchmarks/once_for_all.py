"""What further targets cost, once shared weights are trained for all: seconds of each, and its share of the first.

    python -m tests.benchmarks.once_for_all examples/digits.py --supernet-epochs 100

The cache of prices, sensitivities and shared weights is fresh, that of compiled C libraries is yours. Prices, which
are found for all before the training, count for their own target, the training for the first.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import haqnas
from haqnas.progress import Progress

TARGETS = ("x86-64-v3", "cortex-a72", "x86-avx512-vnni")  # x86-amx has no table of kernels


def compile_all(options: argparse.Namespace) -> tuple[tuple[haqnas.TargetResult, ...], float]:
    """The results, and the seconds in which shared weights were trained."""
    told: list[tuple[float, str]] = []

    def tell(step: Progress) -> None:
        told.append((time.monotonic(), step.note))
        seconds = told[-1][0] - told[0][0]
        print(f"{seconds:.1f} s: {step.target}: {step.stage}: {step.note}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        results = haqnas.compile_file_for_targets(
            options.model,
            targets=options.targets,
            output=Path(folder) / "out",
            cache_folder=Path(folder) / "cache",
            architecture="auto",
            latency_budget=options.latency_budget,
            supernet_epochs=options.supernet_epochs,
            trials=options.trials,
            qat_epochs=options.qat_epochs,
            progress=tell,
        )
    notes = [index for index, (_, note) in enumerate(told) if note.startswith("supernet: epoch")]
    return results, told[notes[-1]][0] - told[notes[0] - 1][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="examples/digits.py")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--latency-budget", default="70%")
    parser.add_argument("--supernet-epochs", type=float, default=100.0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--qat-epochs", type=float, default=4.0)
    results, training_s = compile_all(parser.parse_args())
    print(f"shared weights: {training_s:.1f} s\n")
    print("| target | s | share of the first | accuracy | of int8 | budget |")
    print("|---|---|---|---|---|---|")
    for result in results:
        told = f"| {result.target} | {result.time_s:.1f} | {result.time_s / results[0].time_s:.0%} "
        if result.artifact is None:
            print(f"{told}| {result.error} | | |")
            continue
        manifest = result.artifact.manifest
        (latency,) = [one for one in manifest.constraints if one.name == "latency"]
        verdict = "met" if latency.is_met else "missed"
        print(f"{told}| {manifest.accuracy.simulated:.2%} | {latency.found:.1%} | {verdict} |")


if __name__ == "__main__":
    main()
