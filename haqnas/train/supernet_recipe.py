"""Recipe: how shared weights are trained; defaults were chosen by measurement (docs/architecture-space.md)."""

import math
from dataclasses import dataclass
from typing import get_args

from haqnas.errors import ConfigurationError
from haqnas.train.recipe import Augmentation, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetRecipe:
    """Length and settings of a training of shared weights; at least one of `epochs` and `time_s` bounds it.

    Raises ConfigurationError for values that make no sense.
    """

    epochs: float | None = None  # passes over the training data; may be a fraction
    time_s: float | None = None  # ends it early, with the schedule fitted to it; 0: no training
    batch_size: int = 128
    num_random: int = 2  # networks of a step beside the largest and the smallest
    largest_every: int = (
        1  # steps; between them the float network teaches in the place of the largest, which costs less
    )
    learning_rate: float = 0.02  # at its peak; small networks want up to five times as much
    weight_decay: float = 1e-4
    warmup: float = 0.05  # share of the training in which the learning rate rises; then half a cosine to 0
    shrinking: float = 0.1  # share of the training after which all choices of all knobs are open
    distillation: float = (
        0.7  # share of the loss that compares logits with the teacher's; the rest is the labels'
    )
    temperature: float = 2.0  # of both logits in that comparison
    augmentation: tuple[
        Augmentation, ...
    ] = ()  # of images (n, c, h, w), beside what the data set does itself
    precision: Precision = "auto"  # bfloat16 autocast where the CPU multiplies it

    def __post_init__(self) -> None:
        if self.epochs is None and self.time_s is None:
            raise ConfigurationError("training shared weights needs an end: give epochs, time_s or both")
        _require(
            self.epochs is None or 0 < self.epochs < math.inf,
            "--supernet-epochs (epochs)",
            self.epochs,
            "greater than 0",
        )
        _require(
            self.time_s is None or 0 <= self.time_s < math.inf,
            "--supernet-time (time_s)",
            self.time_s,
            "at least 0",
        )
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2 (batch norm)")
        _require(self.num_random >= 0, "num_random", self.num_random, "at least 0")
        _require(self.largest_every >= 1, "largest_every", self.largest_every, "at least 1")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "greater than 0")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "a share of the training, 0 to 1")
        _require(0 <= self.shrinking <= 1, "shrinking", self.shrinking, "a share of the training, 0 to 1")
        _require(
            0 <= self.distillation <= 1, "distillation", self.distillation, "a share of the loss, 0 to 1"
        )
        _require(0 < self.temperature < math.inf, "temperature", self.temperature, "greater than 0")
        unknown = sorted(set(self.augmentation) - set(get_args(Augmentation)))
        _require(not unknown, "augmentation", unknown, f"made of {', '.join(get_args(Augmentation))}")

    @property
    def trains(self) -> bool:
        """Whether weights change at all."""
        return self.time_s != 0


def _require(is_met: bool, name: str, value: object, rule: str) -> None:
    if not is_met:
        raise ConfigurationError(f"{name} of a SupernetRecipe must be {rule}, but got {value}")
