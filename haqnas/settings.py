"""Settings: what a user may ask of `compile` and `compile_file`, with its default. An option is declared here, once.

`CompileOptions` says the same to type checkers; tests/test_settings.py holds the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from haqnas.errors import ConfigurationError
from haqnas.hardware import HardwareProfile
from haqnas.progress import Report
from haqnas.rewrite.ptq import DEFAULT_METHOD, PtqMethod
from haqnas.space.policy import Policy
from haqnas.train.recipe import Augmentation, Optimizer, Recipe
from haqnas.train.supernet_recipe import SupernetRecipe

VAL_SAMPLES = 1000  # the integer graph takes about 5 ms a CIFAR image in PyTorch
# Hashed as they were resolved, or without a part in the result.
UNHASHED = frozenset(
    {"target", "bits", "device", "formats"}
    | {"fresh", "cache_folder", "progress"}
    | {"time_budget_s", "workers", "study"}  # how, not what is searched: its trials count on
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of a compilation, as the user wrote them."""

    target: str | HardwareProfile = "host"
    # "8", "w4a8", the path of a policy.json, a Policy, or "auto": chosen by a search. None: "auto" where a budget or a
    # strategy is given, else "8"
    bits: str | Policy | None = None
    strategy: str | None = None  # of the search; "ilp" if left out
    compare_strategies: Sequence[
        str
    ] = ()  # searched by each of these, at equal trials; the first one's bits ship
    trials: int | None = None  # policies whose accuracy is read; None: 100
    time_budget_s: float | None = None  # then the best so far is compiled
    workers: int = 1  # processes that share the trials
    study: str | None = None  # an Optuna database's URL for the trials; None: a journal file
    architecture: str | None = (
        None  # "auto": widths, depths and kernel sizes are searched together with the bits
    )
    supernet_epochs: float | None = (
        None  # to train weights that architectures share; None and no time: as they are
    )
    supernet_time_s: float | None = None  # end it by then
    sensitivity: str = "gradient"  # how the search predicts losses; also "pairwise", "kl"
    latency_budget: str | None = None  # "5ms", or "60%" of the uniform int8 build
    size_budget: str | None = None  # of the packed weights: "300KiB", or "50%" of uniform int8
    max_drop: float | None = None  # of accuracy against the float model, 0.01 for one point
    pin: Sequence[str] = ()  # "GLOB=w8a8": these layers get exactly these bits
    include: Sequence[str] = ()  # globs: only these layers get other bits than 8
    exclude: Sequence[str] = ()  # globs: these layers stay at 8 bits
    val_samples: int | None = VAL_SAMPLES  # of val_data, evenly spaced, for top-1; None: all
    seed: int = 0
    threads: int = 1  # that the program may run on
    tune_time_s: float = 0.0  # to choose kernels by measurement on the device; 0: by rule
    formats: Sequence[str] = ("exe", "a")
    cc: str | None = None  # a C compiler other than zig's
    device: str | None = None  # other than the default
    compare: bool = True  # bits other than 8 with the uniform int8 build
    strict_bits: bool = False  # fail where the binary differs in anything from the bits that were requested
    ptq: PtqMethod = DEFAULT_METHOD  # how weights are rounded before any training
    qat_epochs: float | None = None  # of fine-tuning on train_data; None and no time: none
    qat_time_s: float | None = None  # end it by then
    qat_learning_rate: float | None = (
        None  # this and what follows: None is the default of haqnas.train.recipe
    )
    qat_batch_size: int | None = None
    qat_optimizer: Optimizer | None = None
    qat_distillation: float | None = None  # share of the loss that compares with the float model's outputs
    qat_weight_decay: float | None = None
    qat_label_smoothing: float | None = None  # share of each label that is spread over all classes
    # of images, beside what train_data does itself: "flip", "crop", "cutout"
    qat_augment: Sequence[Augmentation] | None = None
    qat_randaugment: float | None = None  # strength of two random operations on each image, 0 to 1
    qat_mixup: float | None = None  # of pairs of samples, by shares from Beta(mixup, mixup)
    qat_recipe: str | None = None  # "auto": what of it is not given is searched, by short trainings
    qat_trials: int | None = None  # of recipes; None: 16
    qat_trial_epochs: float | None = None  # of each of these trainings; None: a quarter of qat_epochs, else 1
    fresh: bool = False  # do not go on from an earlier run
    cache_folder: Path | None = None  # where times of kernels are kept
    progress: Report | None = None  # called as each stage begins


class SharedOptions(TypedDict, total=False):
    """The keywords of `compile_for_targets` that are options: the fields of `Settings` without `target`."""

    bits: str | Policy | None
    strategy: str | None
    compare_strategies: Sequence[str]
    trials: int | None
    time_budget_s: float | None
    workers: int
    study: str | None
    architecture: str | None
    supernet_epochs: float | None
    supernet_time_s: float | None
    sensitivity: str
    latency_budget: str | None
    size_budget: str | None
    max_drop: float | None
    pin: Sequence[str]
    include: Sequence[str]
    exclude: Sequence[str]
    val_samples: int | None
    seed: int
    threads: int
    tune_time_s: float
    formats: Sequence[str]
    cc: str | None
    device: str | None
    compare: bool
    strict_bits: bool
    ptq: PtqMethod
    qat_epochs: float | None
    qat_time_s: float | None
    qat_learning_rate: float | None
    qat_batch_size: int | None
    qat_optimizer: Optimizer | None
    qat_distillation: float | None
    qat_weight_decay: float | None
    qat_label_smoothing: float | None
    qat_augment: Sequence[Augmentation] | None
    qat_randaugment: float | None
    qat_mixup: float | None
    qat_recipe: str | None
    qat_trials: int | None
    qat_trial_epochs: float | None
    fresh: bool
    cache_folder: Path | None
    progress: Report | None


class CompileOptions(SharedOptions, total=False):
    """The keywords of `compile` and `compile_file`: the fields of `Settings`."""

    target: str | HardwareProfile


def hashed_settings(settings: Settings) -> dict[str, object]:
    """The settings that tell one request from another, by name."""
    names = [entry.name for entry in fields(settings) if entry.name not in UNHASHED]
    return {name: getattr(settings, name) for name in names}


def supernet_recipe_of(settings: Settings) -> SupernetRecipe:
    """How shared weights are trained; raises ConfigurationError for values that make no sense."""
    if settings.supernet_epochs is None and settings.supernet_time_s is None:
        return SupernetRecipe(time_s=0)
    return SupernetRecipe(epochs=settings.supernet_epochs, time_s=settings.supernet_time_s)


def given_recipe(settings: Settings) -> dict[str, Any]:
    """What the user says of fine-tuning, but its length: fields of Recipe."""
    given = {
        "learning_rate": settings.qat_learning_rate,
        "batch_size": settings.qat_batch_size,
        "optimizer": settings.qat_optimizer,
        "distillation": settings.qat_distillation,
        "weight_decay": settings.qat_weight_decay,
        "label_smoothing": settings.qat_label_smoothing,
        "augmentation": None if settings.qat_augment is None else tuple(settings.qat_augment),
        "randaugment": settings.qat_randaugment,
        "mixup": settings.qat_mixup,
    }
    return {name: value for name, value in given.items() if value is not None}


def recipe_of(settings: Settings) -> Recipe | None:
    """The fine-tuning that was asked for; raises ConfigurationError for values that make no sense."""
    chosen = given_recipe(settings)
    if settings.qat_epochs is None and settings.qat_time_s is None:
        if chosen:
            raise ConfigurationError(
                f"the {', '.join(chosen)} of fine-tuning is given, but no length; add --qat-epochs or --qat-time"
            )
        return None
    return Recipe(epochs=settings.qat_epochs, time_s=settings.qat_time_s, **chosen)
