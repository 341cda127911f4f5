"""Fine-tuning of a fake-quantized graph: straight-through estimation, distillation, batch-norm re-estimation.

A run is a sequence of steps; all that is random in a step follows from (seed, step), and a checkpoint holds all that
a step changes. So an interrupted run that goes on gives the same bits as one that was never interrupted.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas.errors import ConfigurationError
from haqnas.rewrite.batch_norm import reestimate_batch_norm
from haqnas.rewrite.calibrate import Batch
from haqnas.rewrite.trainable import TrainedLayer, has_batch_norm, make_trainable, restore
from haqnas.train.batches import Source, batches_from, channels_last, pair, read_batch, source_of
from haqnas.train.checkpoint import Checkpoint
from haqnas.train.loop import Kept, Length, Note, Step, run_steps
from haqnas.train.loss import has_classes, loss_of
from haqnas.train.precision import autocast, autocast_dtype, copy_for_inference, in_channels_last
from haqnas.train.recipe import Recipe, learning_rate_factor
from haqnas.train.seeds import seeded

STATISTICS_SAMPLES = 4096  # that batch norms are re-estimated on
CLIPPED_NORM = 5.0  # of the gradient: a few bits make rare, very large ones


@dataclass(frozen=True, slots=True)
class Trained:
    """What fine-tuning gives: the calibrated graph, ready for `integerize`, and how long it took."""

    graph: GraphModule
    num_steps: int
    epochs: float
    time_s: float
    loss: float  # mean of the last steps


def fine_tune(
    fake_quantized: GraphModule,
    canonical: GraphModule,
    train_data: Dataset[Any],
    batches: Sequence[Batch],
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None = None,
    note: Note | None = None,
    teacher: GraphModule | None = None,
) -> Trained:
    """Train the graph that `calibrate` gave, with a float graph as its teacher: its own, `canonical`, or another.

    `train_data` holds pairs (input without batch dimension, label); labels count where the first output is
    (n, classes) and labels are class indices, else the network learns the teacher's outputs alone. `batches` are
    calibration inputs. `checkpoint` is written now and then, and where it exists training goes on from there.
    Inputs are unchanged. Raises ConfigurationError for data that does not fit, and when the loss is not finite.
    """
    student = make_trainable(fake_quantized, canonical, batches)
    run = _prepare(student, canonical if teacher is None else teacher, train_data, recipe, seed)
    state = _train(run, checkpoint, note or (lambda _text: None))
    _reestimate(run)
    graph = restore(student.eval(), fake_quantized, batches)
    epochs = state.step / run.source.steps_per_epoch
    return Trained(graph, state.step, epochs, state.elapsed_s, state.loss)


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same from step to step, and the modules that steps change."""

    student: GraphModule
    teacher: GraphModule
    optimizers: tuple[torch.optim.Optimizer, ...]
    source: Source
    recipe: Recipe
    autocast_dtype: torch.dtype | None

    @property
    def length(self) -> Length:
        return Length(self.recipe.epochs, self.recipe.time_s, self.source.steps_per_epoch)


def _prepare(
    student: GraphModule, teacher: GraphModule, data: Dataset[Any], recipe: Recipe, seed: int
) -> _Run:
    return _Run(
        student=in_channels_last(student),
        teacher=copy_for_inference(teacher),
        optimizers=_optimizers(student, recipe),
        source=source_of(data, recipe.batch_size, seed),
        recipe=recipe,
        autocast_dtype=autocast_dtype(recipe.precision),
    )


def _train(run: _Run, path: Path | None, note: Note) -> Checkpoint:
    def begin(start: int) -> Step:
        batches = batches_from(run.source, start)
        run.student.train()
        return lambda step, progress: _step(
            run, batches, step, learning_rate_factor(progress, run.recipe.warmup)
        )

    return run_steps(run.length, Kept(path, run.student, run.optimizers), begin, note)


def _step(run: _Run, batches: Iterator[Any], step: int, factor: float) -> float:
    """One update; gives its loss."""
    recipe = run.recipe
    inputs, labels = read_batch(
        run.source, batches, step, recipe.augmentation, recipe.randaugment, recipe.mixup
    )
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        optimizer.zero_grad(set_to_none=True)
    with autocast(run.autocast_dtype):
        outputs = run.student(*inputs)
        with torch.no_grad():
            wanted = run.teacher(*inputs) if _needs_teacher(recipe, outputs[0], labels) else None
    loss = loss_of(
        outputs,
        wanted,
        labels,
        distillation=recipe.distillation,
        temperature=recipe.temperature,
        label_smoothing=recipe.label_smoothing,
    )
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ConfigurationError(
            f"the loss must be finite, but it was {value} in training step {step + 1}; give a lower --qat-lr than "
            f"{recipe.peak_learning_rate:g}, or look for NaN in train_data"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.student.parameters(), CLIPPED_NORM)
    for optimizer in run.optimizers:
        optimizer.step()
    return value


def _needs_teacher(recipe: Recipe, output: Tensor, labels: Any) -> bool:
    return recipe.distillation > 0 or not has_classes(output, labels)


def _optimizers(student: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """One for weights, biases and batch norms; Adam for the logarithms of quantization steps, in any case.

    Gradients of steps differ by orders from layer to layer; Adam's updates are as large for all.
    """
    steps = [p for name, p in student.named_parameters() if name.endswith("log_step")]
    weights = [module.weight for module in student.modules() if isinstance(module, TrainedLayer)]
    known = {id(parameter) for parameter in (*steps, *weights)}
    others = [p for p in student.parameters() if id(p) not in known]
    groups = [
        {"params": weights, "weight_decay": recipe.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [{**group, "peak": recipe.peak_learning_rate} for group in groups if group["params"]]
    main: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        main = torch.optim.SGD(groups, lr=recipe.peak_learning_rate, momentum=0.9, nesterov=True)
    else:
        main = torch.optim.AdamW(groups, lr=recipe.peak_learning_rate)
    rate = recipe.step_learning_rate
    return main, torch.optim.Adam([{"params": steps, "peak": rate}], lr=rate)


def _reestimate(run: _Run) -> None:
    """Batch-norm statistics of the weights as they are now, on samples as they are: running averages lag behind."""
    if not has_batch_norm(run.student):
        return
    count = max(min(STATISTICS_SAMPLES, run.source.num_samples) // run.source.batch_size, 1)
    batches = batches_from(run.source, 0)
    with seeded(run.source.seed, 0):
        inputs = [tuple(channels_last(part) for part in pair(next(batches))[0]) for _ in range(count)]
    with autocast(run.autocast_dtype):
        measured = reestimate_batch_norm(run.student, inputs)
    run.student.load_state_dict(measured.state_dict())
