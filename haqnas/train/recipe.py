"""Recipe: how a network is fine-tuned, with defaults that were chosen by measurement (docs/training.md)."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from haqnas.errors import ConfigurationError

Optimizer: TypeAlias = Literal["sgd", "adamw"]
Augmentation: TypeAlias = Literal["flip", "crop", "cutout"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

LEARNING_RATES: dict[Optimizer, float] = {"sgd": 5e-3, "adamw": 2e-4}
WEIGHT_DECAYS: dict[Optimizer, float] = {"sgd": 1e-4, "adamw": 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Length and settings of a fine-tuning; at least one of `epochs` and `time_s` bounds it.

    Raises ConfigurationError for values that make no sense.
    """

    epochs: float | None = None  # passes over the training data; may be a fraction
    time_s: float | None = None  # ends it early, with the schedule fitted to it
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float | None = None  # at its peak; None: that of LEARNING_RATES
    weight_decay: float | None = None  # of weights; None: that of WEIGHT_DECAYS
    step_learning_rate: float = 1e-3  # of quantization steps: the greatest relative change per update, about
    warmup: float = 0.05  # share of the training in which the learning rate rises; then half a cosine to 0
    distillation: float = (
        0.7  # share of the loss that compares logits with the float model's; the rest is the labels'
    )
    temperature: float = 2.0  # of both logits in that comparison
    label_smoothing: float = 0.0  # share of each label that is spread over all classes
    augmentation: tuple[
        Augmentation, ...
    ] = ()  # of images (n, c, h, w), beside what the data set does itself
    randaugment: float = 0.0  # strength of two random operations on each image, 0 (none) to 1
    mixup: float = 0.0  # of pairs of samples, by shares from Beta(mixup, mixup); 0: none
    precision: Precision = "auto"  # bfloat16 autocast where the CPU multiplies it

    def __post_init__(self) -> None:
        if self.epochs is None and self.time_s is None:
            raise ConfigurationError("fine-tuning needs an end: give --qat-epochs, --qat-time or both")
        for option, value in (("--qat-epochs", self.epochs), ("--qat-time", self.time_s)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigurationError(
                    f"{option} must be greater than 0, but got {value:g}; leave it out for none"
                )
        if self.batch_size < 2:
            raise ConfigurationError(
                f"--qat-batch-size must be at least 2, but got {self.batch_size}: batch norm needs several samples"
            )
        if self.optimizer not in LEARNING_RATES:
            raise ConfigurationError(
                f"--qat-optimizer is one of {', '.join(LEARNING_RATES)}, but got {self.optimizer!r}"
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigurationError(
                f"--qat-lr must be greater than 0, but got {self.learning_rate:g}; 0.001 to 0.1 is usual"
            )
        if not 0 <= self.distillation <= 1:
            raise ConfigurationError(
                f"--qat-distillation is a share of the loss, 0 to 1, but got {self.distillation:g}"
            )
        self._check_shares()
        unknown = sorted(set(self.augmentation) - set(get_args(Augmentation)))
        if unknown:
            raise ConfigurationError(
                f"--qat-augment is made of {', '.join(get_args(Augmentation))}, but got {', '.join(unknown)}; other "
                "augmentation belongs into train_data()"
            )

    def _check_shares(self) -> None:
        decay = self.weight_decay
        for is_met, rule in (
            (
                decay is None or 0 <= decay < math.inf,
                f"--qat-weight-decay must be at least 0, but got {decay}; 0.0001 is usual with sgd",
            ),
            (
                0 <= self.label_smoothing < 1,
                (
                    "--qat-label-smoothing is a share of each label, 0 to less than 1, but got "
                    f"{self.label_smoothing:g}"
                ),
            ),
            (
                0 <= self.randaugment <= 1,
                f"--qat-randaugment is a strength, 0 to 1, but got {self.randaugment:g}; 0.3 is mild",
            ),
            (
                0 <= self.mixup < math.inf,
                f"--qat-mixup must be at least 0, but got {self.mixup:g}; 0.2 is usual, and 0 mixes nothing",
            ),
        ):
            if not is_met:
                raise ConfigurationError(rule)

    @property
    def peak_learning_rate(self) -> float:
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def decay(self) -> float:
        """Of weights."""
        return WEIGHT_DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Share of the peak learning rate when the share `progress`, 0 to 1, of the training is done."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1.0 - warmup))
