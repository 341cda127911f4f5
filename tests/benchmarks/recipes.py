"""Fine-tuning by the default recipe and by a searched one, of the same final length: accuracy on data no search saw.

    python -m tests.benchmarks.recipes examples/digits.py --bits w2a4 --epochs 12 --trials 24 --trial-epochs 4

Each seed is two whole compilations; top-1 is that of the integer graph, and so of the binary, on all of val_data.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time

from haqnas import compile_file


def accuracy_of(options: argparse.Namespace, seed: int, is_searched: bool):
    """Top-1, the manifest's record of the search, and the seconds that all took."""
    search = (
        {"qat_recipe": "auto", "qat_trials": options.trials, "qat_trial_epochs": options.trial_epochs}
        if is_searched
        else {}
    )
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        manifest = compile_file(
            options.model,
            output=folder,
            target=options.target,
            device="table",
            compare=False,
            formats=("a",),
            bits=options.bits,
            qat_epochs=options.epochs,
            val_samples=None,
            seed=seed,
            **search,
        ).manifest
    return manifest.accuracy.simulated, manifest.recipe, time.monotonic() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", default="x86-64-v3")
    parser.add_argument("--bits", required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--trial-epochs", type=float, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        plain, _, plain_s = accuracy_of(options, seed, is_searched=False)
        found, record, found_s = accuracy_of(options, seed, is_searched=True)
        rows.append((plain, found, record.default_drop, record.drop))
        chosen = ", ".join(f"{name} {choice}" for name, choice in record.choices.items())
        print(
            f"seed {seed}: default {plain:.2%} in {plain_s:.0f} s, searched {found:.2%} in {found_s:.0f} s; {chosen}",
            file=sys.stderr,
            flush=True,
        )
    print(
        f"top-1 of {options.bits} after {options.epochs:g} epochs; drops after {options.trial_epochs:g}, on the split"
    )
    print("| seed | default | searched | drop by default | drop by the winner |")
    for seed, row in zip(options.seeds, rows, strict=True):
        print(f"| {seed} | {' | '.join(f'{100 * value:.2f}' for value in row)} |")
    gains = [100 * (found - plain) for plain, found, *_ in rows]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    print(f"gain in points: {statistics.mean(gains):+.2f} ± {error:.2f}")


if __name__ == "__main__":
    main()
