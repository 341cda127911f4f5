"""What a search for bits reads of a network: sensitivities of its layers, and accuracies of policies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset, Subset

from haqnas.artifact import write_atomically
from haqnas.bit_search import Judge
from haqnas.evaluate import SCORE_BATCH_SIZE, Batches, Evaluate, checked_score, dataset_length
from haqnas.quantspec import QuantSpec
from haqnas.resume import hash_request
from haqnas.rewrite.light import lighten
from haqnas.rewrite.ptq import DEFAULT_METHOD, PtqMethod, quantize_without_training
from haqnas.space.policy import Policy
from haqnas.train.score import score_agreement, score_top1
from haqnas.train.sensitivity import Sensitivity, estimate_loss, measure_divergence
from haqnas.train.sensitivity_file import decode_sensitivity, encode_sensitivity

SEARCH_SAMPLES = (
    1000  # of the training data, that accuracy is read on in a search: a resolution of a tenth of a point
)
SENSITIVITY_VALUES = (
    32 * 3 * 32 * 32
)  # input values of one batch: its activations and gradients are held at once

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Given:
    """What a search reads: the float model, its canonical graph, inputs to calibrate on, and labelled training data.

    `branching`: the canonical graph with all branches of each `haqnas.nn.Choice`, where they are searched; `canonical`
    has the first ones.
    """

    model: nn.Module
    canonical: GraphModule
    example_inputs: tuple[Tensor, ...]
    batches: Batches
    source: str  # of the batches
    train_data: Dataset[Any] | None
    evaluate: Evaluate | None
    ptq: PtqMethod = DEFAULT_METHOD  # how policies are quantized to be judged
    branching: GraphModule | None = None

    @property
    def searched(self) -> GraphModule:
        """What architectures are cut out of."""
        return self.canonical if self.branching is None else self.branching


def find_sensitivity(
    given: Given,
    choices: Mapping[str, Sequence[QuantSpec]],
    method: str,
    seed: int,
    cache_folder: Path,
    versions: Mapping[str, str],
    note: Note,
) -> Sensitivity:
    """By `method`: "gradient", "pairwise", "kl". Kept in `cache_folder` by network, inputs, choices and seed."""
    batches = [
        tuple(part[start : start + size] for part in batch)
        for batch in given.batches
        for size in [max(1, SENSITIVITY_VALUES // sum(part[0].numel() for part in batch))]
        for start in range(0, int(batch[0].shape[0]), size)
    ]
    asked = {name: list(map(str, specs)) for name, specs in choices.items()}
    settings = {"method": method, "choices": asked, "seed": seed, **versions}
    key = hash_request(given.canonical, [part for batch in batches for part in batch], settings)
    path = cache_folder / "sensitivity" / f"{key[:32]}.json"
    if path.exists():
        return decode_sensitivity(path.read_bytes(), str(path))
    if method == "kl":
        found = measure_divergence(given.canonical, batches, choices, note)
    else:
        found = estimate_loss(given.canonical, batches, choices, seed, note)
        found = found if method == "pairwise" else found.without_projections()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_sensitivity(found))
    return found


@dataclass(frozen=True, slots=True)
class Scorer:
    """Reads the accuracy of networks, simulated, on data that is kept for the search.

    `score_of` takes a canonical graph, which need not be the one that was given, and its bits; `read` a network.
    """

    score_of: Callable[[GraphModule, Policy], float]
    read: Callable[[nn.Module], float]
    float_score: Callable[[], float]
    judged_on: str


def make_scorer(given: Given, seed: int, num_batches: int | None = None) -> Scorer:
    """Reads accuracy on a part of the training data, else agreement with the float model on what is calibrated on.

    `num_batches`: calibrate on the first of the batches only; None: on all.
    """

    def simulate(canonical: GraphModule, policy: Policy) -> GraphModule:
        batches = given.batches[:num_batches]
        return lighten(quantize_without_training(canonical, policy, batches, given.ptq))

    def agreement(model: nn.Module) -> float:
        return score_agreement(model, given.model, given.batches)

    if given.train_data is None:
        return Scorer(
            lambda canonical, policy: agreement(simulate(canonical, policy)),
            agreement,
            lambda: 1.0,
            f"agreement on {given.source}",
        )
    split = search_split(given.train_data, seed)
    evaluate = given.evaluate

    def score(model: nn.Module) -> float:
        if evaluate is not None:
            return checked_score(evaluate(model, split))
        return score_top1(model, split, SCORE_BATCH_SIZE)

    @cache
    def float_score() -> float:
        return score(given.model)

    return Scorer(
        lambda canonical, policy: score(simulate(canonical, policy)),
        score,
        float_score,
        f"{len(split)} samples of train_data",
    )


def make_judge(given: Given, seed: int, num_batches: int | None = None) -> Judge:
    """Of the bits of the network that was given, as `make_scorer`."""
    scorer = make_scorer(given, seed, num_batches)
    return Judge(
        lambda policy: scorer.float_score() - scorer.score_of(given.canonical, policy),
        scorer.float_score,
        scorer.judged_on,
    )


def search_split(train_data: Dataset[Any], seed: int) -> Subset[Any]:
    """The samples of the training data that searches are judged on: random, at most half of them."""
    length = dataset_length(train_data, "train_data")
    count = min(SEARCH_SAMPLES, max(1, length // 2))
    chosen = np.random.default_rng([seed, 1]).permutation(length)[:count]
    return Subset(train_data, sorted(map(int, chosen)))


def training_split(train_data: Dataset[Any], seed: int) -> Subset[Any]:
    """The samples of the training data that searches are not judged on."""
    judged_on = set(search_split(train_data, seed).indices)
    length = dataset_length(train_data, "train_data")
    return Subset(train_data, [index for index in range(length) if index not in judged_on])
