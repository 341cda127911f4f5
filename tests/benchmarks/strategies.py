"""Strategies that choose bits, compared at equal trials: accuracy within a budget, on data that no search saw.

    python -m tests.benchmarks.strategies examples/cifar10_resnet.py --target x86-64-v3 --size-budget 40% --trials 40

Each strategy searches once per seed, which draws the search split too. What is chosen is calibrated as `haqnas compile`
would and read on `val_samples` of val_data; the drop is from the float model. Prices are those of the profile's table.
"""

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from torch.utils.data import Subset

from haqnas.bit_stage import choose_bits, given_policy
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.evaluate import SCORE_BATCH_SIZE, sample_batches
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import check_options, split_model
from haqnas.rewrite.light import lighten
from haqnas.rewrite.ptq import quantize_without_training
from haqnas.search_data import Given
from haqnas.settings import Settings
from haqnas.train.score import score_top1
from haqnas.versions import read_versions


def read_given(model_file: str, seed: int) -> tuple[Given, Subset]:
    """The model, and the part of val_data that is scored."""
    path, builder = split_model(model_file)
    loaded = load_model(path, builder)
    train_data, val_data = loaded.train_data(), loaded.val_data()
    canonical = normalise(trace(loaded.model, loaded.example_inputs))
    batches = sample_batches(train_data, "train_data", loaded.example_inputs, np.random.default_rng(seed))
    given = Given(loaded.model, canonical, loaded.example_inputs, batches, "train_data", train_data, None)
    return given, val_data


def search(given: Given, strategy: str, seed: int, options: argparse.Namespace):
    """What `choose_bits` finds, in a folder of its own."""
    trials = {} if strategy == "ilp" else {"trials": options.trials}
    settings = Settings(
        target=options.target,
        device="table",
        latency_budget=options.latency_budget,
        size_budget=options.size_budget,
        max_drop=1.0,  # so that the ILP's answer is read on the split, too
        strategy=strategy,
        seed=seed,
        include=tuple(options.include),
        **trials,
    )
    checked = check_options("net", settings)
    policy = given_policy(checked, given.canonical)
    with tempfile.TemporaryDirectory() as work:
        return choose_bits(
            checked, policy, given, Path(work), default_cache_folder(), read_versions(), lambda *_: None
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", required=True)
    parser.add_argument("--latency-budget")
    parser.add_argument("--size-budget")
    parser.add_argument("--include", nargs="*", default=())
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", default="marl,ilp,evolution,random")
    parser.add_argument("--val-samples", type=int, default=2000)
    options = parser.parse_args()
    names = options.strategies.split(",")
    drops: dict[str, list[float]] = {name: [] for name in names}
    searched: dict[str, list[float]] = {name: [] for name in names}
    for seed in options.seeds:
        given, val_data = read_given(options.model, seed)
        count = min(options.val_samples, len(val_data))
        chosen = Subset(val_data, [index * len(val_data) // count for index in range(count)])
        float_score = score_top1(given.model, chosen, SCORE_BATCH_SIZE)
        for name in names:
            found = search(given, name, seed, options)
            graph = lighten(quantize_without_training(given.canonical, found.policy, given.batches))
            drops[name].append(float_score - score_top1(graph, chosen, SCORE_BATCH_SIZE))
            record = found.search
            searched[name].append(record.drop)
            share = record.predicted_latency / record.int8_latency
            print(
                f"seed {seed} {name}: drop {searched[name][-1]:.2%} on the split, {drops[name][-1]:.2%} on {count} of "
                f"val_data, at {share:.1%} of the latency, {record.num_policies} policies",
                file=sys.stderr,
                flush=True,
            )
    print(f"drop, points, mean of {len(options.seeds)} seeds and standard error; {options.trials} trials")
    for name in names:
        print(f"| {name} | {_told(searched[name])} | {_told(drops[name])} |")


def _told(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):.2f} ± {100 * error:.2f}"


if __name__ == "__main__":
    main()
