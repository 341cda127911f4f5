"""The stage that gives weights their bits: quantize without training, then fine-tune where that was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas.artifact import write_atomically
from haqnas.errors import ConfigurationError
from haqnas.evaluate import Batches, dataset_length, read_inputs
from haqnas.manifest import Training
from haqnas.options import Options
from haqnas.rewrite.calibrate import Batch
from haqnas.rewrite.ptq import quantize_without_training
from haqnas.space.policy import Policy
from haqnas.train.augment import are_images
from haqnas.train.fine_tune import fine_tune
from haqnas.train.recipe import Recipe

CHECKPOINT = "training.pt"
RECORD = "training.json"


def check_train_data(
    options: Options, train_data: Dataset[Any] | None, example_inputs: tuple[Any, ...]
) -> Dataset[Any] | None:
    """The data to fine-tune on, None where no fine-tuning was asked for; raises ConfigurationError."""
    if options.recipe is None:
        return None
    if train_data is None:
        raise ConfigurationError(
            "fine-tuning (--qat-epochs, --qat-time) needs training data, but there is none; give the model file a "
            "function train_data() that returns a Dataset of pairs (input without batch dimension, label)"
        )
    dataset_length(train_data, "train_data")
    _check_augmentation(options.recipe, read_inputs(train_data, "train_data", 0, example_inputs))
    return train_data


def _check_augmentation(recipe: Recipe, inputs: Batch) -> None:
    """Raises ConfigurationError where inputs, without batch dimension, are not what the recipe changes."""
    asked = {
        f"--qat-augment {','.join(recipe.augmentation)}": bool(recipe.augmentation),
        f"--qat-randaugment {recipe.randaugment:g}": recipe.randaugment > 0,
    }
    for option, is_asked in asked.items():
        if is_asked and not are_images(inputs):
            raise ConfigurationError(
                f"{option} is for images (c, h, w), but the inputs of train_data have the shapes "
                f"{[tuple(part.shape) for part in inputs]}; augment in train_data() instead"
            )


def quantized_graph(
    options: Options,
    policy: Policy,
    canonical: GraphModule,
    teacher: GraphModule,
    batches: Batches,
    train_data: Dataset[Any] | None,
    work: Path,
    note: Callable[[str], None],
) -> GraphModule:
    """The calibrated fake-quantized graph, fine-tuned where `options` say so; a checkpoint in `work` is gone on from.

    It learns from the outputs of `teacher`.

    Raises UnsupportedModelError, ConfigurationError.
    """
    calibrated = quantize_without_training(canonical, policy, batches, options.settings.ptq)
    if options.recipe is None or train_data is None:
        return calibrated
    trained = fine_tune(
        calibrated,
        canonical,
        train_data,
        batches,
        options.recipe,
        options.settings.seed,
        work / CHECKPOINT,
        lambda text: note(f"training: {text}"),
        teacher=teacher,
    )
    record = Training(trained.num_steps, trained.epochs, trained.time_s, trained.loss)
    write_atomically(work / RECORD, TypeAdapter(Training).dump_json(record))
    return trained.graph


def read_training(work: Path) -> Training | None:
    """What the fine-tuning of this request was; None where there was none."""
    path = work / RECORD
    return TypeAdapter(Training).validate_json(path.read_bytes()) if path.exists() else None
