"""Shared weights, trained in several ways: accuracy of the largest, the smallest and of drawn networks on val_data.

    python -m tests.benchmarks.supernet examples/digits.py --epochs 4
    python -m tests.benchmarks.supernet examples/digits.py --epochs 4 --share 0.5

Each row changes one thing. Drawn networks are the same for all rows; none is trained on its own. With `--share` they
are of the part of the space that has only such a share of the smaller choices, trained as a part of all, and alone.
"""

import argparse
import statistics
from dataclasses import asdict

import torch
from torch.utils.data import Subset

from haqnas.evaluate import SCORE_BATCH_SIZE
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import split_model
from haqnas.space.architecture import KnobKind
from haqnas.space.elastic import searched_space
from haqnas.train.sandwich import draw
from haqnas.train.score import score_top1
from haqnas.train.supernet import train_supernet
from haqnas.train.supernet_recipe import SupernetRecipe

DRAW_SEED = 1234  # not one that is trained with
STATISTICS_SAMPLES = 256


def variants(epochs: float) -> dict[str, SupernetRecipe]:
    """Rows of the table: the defaults, and one change at a time."""
    usual = asdict(SupernetRecipe(epochs=epochs))

    def other(**changes: object) -> SupernetRecipe:
        return SupernetRecipe(**{**usual, **changes})

    return {
        "no training: statistics alone": SupernetRecipe(time_s=0),
        "the defaults": other(),
        **{f"learning_rate={rate:g}": other(learning_rate=rate) for rate in (0.05, 0.1, 0.2)},
        **{
            f"learning_rate=0.1, {name}={value}": other(learning_rate=0.1, **{name: value})
            for name, value in (
                ("shrinking", 0.0),
                ("shrinking", 0.6),
                ("largest_every", 10),
                ("num_random", 1),
                ("num_random", 4),
                ("distillation", 0.0),
            )
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--drawn", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="of the smaller choices of each knob")
    parser.add_argument("--val-samples", type=int, default=1000)
    options = parser.parse_args()
    path, builder = split_model(options.model)
    loaded = load_model(path, builder)
    train_data, val_data = loaded.train_data(), loaded.val_data()
    canonical = normalise(trace(loaded.model, loaded.example_inputs))
    space = searched_space(canonical)
    part = space.opened(dict.fromkeys(KnobKind, options.share))
    networks = [space.identity, part.least]
    networks += [draw(part, DRAW_SEED, number) for number in range(options.drawn)]
    count = min(options.val_samples, len(val_data))
    judged = Subset(val_data, [index * len(val_data) // count for index in range(count)])
    samples = torch.stack([train_data[index][0] for index in range(min(STATISTICS_SAMPLES, len(train_data)))])
    batches = [(samples,)]
    print(f"top-1 on {count} of val_data, {len(options.seeds)} seeds, {options.epochs:g} epochs")
    print("| training | largest | smallest | drawn | seconds |\n|---|---|---|---|---|")
    rows = [(name, space, recipe) for name, recipe in variants(options.epochs).items()]
    if options.share < 1:
        recipe = SupernetRecipe(epochs=options.epochs)
        rows = [("of all choices", space, recipe), (f"of {options.share:.0%} of the choices", part, recipe)]
    for name, trained, recipe in rows:
        scores: list[list[float]] = []
        times_s: list[float] = []
        for seed in options.seeds:
            supernet = train_supernet(canonical, trained, train_data, batches, recipe, seed)
            row = [score_top1(supernet.cut(one, batches), judged, SCORE_BATCH_SIZE) for one in networks]
            scores.append([row[0], row[1], statistics.mean(row[2:])])
            times_s.append(supernet.training.time_s)
        told = " | ".join(_told(column) for column in zip(*scores, strict=True))
        print(f"| {name} | {told} | {statistics.median(times_s):.1f} |", flush=True)


def _told(values: tuple[float, ...]) -> str:
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    main()
