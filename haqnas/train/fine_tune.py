"""Fine-tuning of a fake-quantized graph: straight-through estimation, distillation, batch-norm re-estimation.

A run is a sequence of steps; all that is random in a step follows from (seed, step), and a checkpoint holds all that
a step changes. So an interrupted run that goes on gives the same bits as one that was never interrupted.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from haqnas.errors import ConfigurationError
from haqnas.rewrite.batch_norm import reestimate_batch_norm
from haqnas.rewrite.calibrate import Batch
from haqnas.rewrite.trainable import TrainedLayer, has_batch_norm, make_trainable, restore
from haqnas.train.augment import augment
from haqnas.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from haqnas.train.recipe import WEIGHT_DECAYS, Recipe, learning_rate_factor
from haqnas.train.seeds import seed_at, seeded

CHECKPOINT_INTERVAL_S = 30.0
NOTE_INTERVAL_S = 10.0
STATISTICS_SAMPLES = 4096  # that batch norms are re-estimated on
CLIPPED_NORM = 5.0  # of the gradient: a few bits make rare, very large ones

Note: TypeAlias = Callable[[str], None]


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
) -> Trained:
    """Train the graph that `calibrate` gave, with the float graph `canonical` as its teacher.

    `train_data` holds pairs (input without batch dimension, label); labels count where the first output is
    (n, classes) and labels are class indices, else the network learns the teacher's outputs alone. `batches` are
    calibration inputs. `checkpoint` is written now and then, and where it exists training goes on from there.
    Inputs are unchanged. Raises ConfigurationError for data that does not fit, and when the loss is not finite.
    """
    student = make_trainable(fake_quantized, canonical, batches)
    run = _prepare(student, canonical, train_data, recipe, seed)
    state = _train(run, checkpoint, note or (lambda _text: None))
    _reestimate(run)
    graph = restore(student.eval(), fake_quantized, batches)
    epochs = state.step / run.steps_per_epoch
    return Trained(graph, state.step, epochs, state.elapsed_s, state.loss)


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same from step to step, and the modules that steps change."""

    student: GraphModule
    teacher: GraphModule
    optimizers: tuple[torch.optim.Optimizer, ...]
    data: Dataset[Any]
    recipe: Recipe
    seed: int
    num_samples: int
    batch_size: int
    autocast_dtype: torch.dtype | None

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.batch_size

    @property
    def num_steps(self) -> int | None:
        return None if self.recipe.epochs is None else math.ceil(self.recipe.epochs * self.steps_per_epoch)

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share that is done; steps or time, whichever is further."""
        by_steps = 0.0 if self.num_steps is None else step / self.num_steps
        by_time = 0.0 if self.recipe.time_s is None else elapsed_s / self.recipe.time_s
        return max(by_steps, by_time)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast("cpu", self.autocast_dtype or torch.bfloat16, self.autocast_dtype is not None):
            yield


def _prepare(
    student: GraphModule, teacher: GraphModule, data: Dataset[Any], recipe: Recipe, seed: int
) -> _Run:
    num_samples = _length(data)
    return _Run(
        student=_in_channels_last(student),
        teacher=_copy_for_inference(teacher),
        optimizers=_optimizers(student, recipe),
        data=data,
        recipe=recipe,
        seed=seed,
        num_samples=num_samples,
        batch_size=min(recipe.batch_size, num_samples),
        autocast_dtype=_autocast_dtype(recipe),
    )


def _read_batch(run: _Run, batches: Iterator[Any], step: int) -> tuple[Batch, Any]:
    """Inputs and labels of a step, augmented."""
    with seeded(run.seed, step):
        inputs, labels = _pair(next(batches))
    generator = torch.Generator().manual_seed(seed_at(run.seed, step))
    if run.recipe.augmentation:
        inputs = tuple(augment(part, run.recipe.augmentation, generator) for part in inputs)
    return tuple(_channels_last(part) for part in inputs), labels


def _train(run: _Run, path: Path | None, note: Note) -> Checkpoint:
    saved = read_checkpoint(path) if path is not None else None
    state = Checkpoint(0, 0.0, math.nan) if saved is None else saved.load(run.student, run.optimizers)
    started_s, saved_s, noted_s = time.monotonic() - state.elapsed_s, time.monotonic(), 0.0
    batches = _batches(run, state.step)
    run.student.train()
    while (progress := run.progress(state.step, state.elapsed_s)) < 1.0:
        loss = _step(run, batches, state.step, learning_rate_factor(progress, run.recipe.warmup))
        now_s = time.monotonic()
        smooth = loss if math.isnan(state.loss) else 0.98 * state.loss + 0.02 * loss
        state = Checkpoint(state.step + 1, now_s - started_s, smooth)
        if path is not None and now_s - saved_s > CHECKPOINT_INTERVAL_S:
            write_checkpoint(path, state, run.student, run.optimizers)
            saved_s = now_s
        if now_s - noted_s > NOTE_INTERVAL_S:
            note(_describe(run, state))
            noted_s = now_s
    if path is not None:
        write_checkpoint(path, state, run.student, run.optimizers)
    note(_describe(run, state))
    return state


def _step(run: _Run, batches: Iterator[Any], step: int, factor: float) -> float:
    """One update; gives its loss."""
    inputs, labels = _read_batch(run, batches, step)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        optimizer.zero_grad(set_to_none=True)
    with run.autocast():
        outputs = run.student(*inputs)
        with torch.no_grad():
            wanted = run.teacher(*inputs) if _needs_teacher(run.recipe, outputs[0], labels) else None
    loss = loss_of(outputs, wanted, labels, run.recipe)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ConfigurationError(
            f"the loss must be finite, but it was {value} in training step {step + 1}; give a lower --qat-lr than "
            f"{run.recipe.peak_learning_rate:g}, or look for NaN in train_data"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.student.parameters(), CLIPPED_NORM)
    for optimizer in run.optimizers:
        optimizer.step()
    return value


def loss_of(
    outputs: Sequence[Tensor], wanted: Sequence[Tensor] | None, labels: Any, recipe: Recipe
) -> Tensor:
    """Loss of a batch: labels and the teacher's outputs `wanted`, weighted by the recipe.

    Outputs (n, classes): cross entropy with labels (n,), and KL divergence from the teacher at the recipe's
    temperature. Other outputs, and other labels: squared error to the teacher's outputs, in units of their variance.
    """
    first = outputs[0].float()
    if not has_classes(first, labels):
        assert wanted is not None
        pairs = zip(outputs, wanted, strict=True)
        return torch.stack([_squared_error(given.float(), goal.float()) for given, goal in pairs]).sum()
    parts: list[Tensor] = []
    if recipe.distillation < 1:
        parts.append((1 - recipe.distillation) * functional.cross_entropy(first, labels.reshape(-1)))
    if wanted is not None:
        given = functional.log_softmax(first / recipe.temperature, 1)
        goal = functional.log_softmax(wanted[0].float() / recipe.temperature, 1)
        divergence = functional.kl_div(given, goal, reduction="batchmean", log_target=True)
        parts.append(recipe.distillation * recipe.temperature**2 * divergence)
    return torch.stack(parts).sum()


def has_classes(output: Tensor, labels: Any) -> bool:
    """Whether labels are class indices of an output (n, classes)."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        return False
    return output.ndim == 2 and output.shape[1] > 1 and labels.numel() == len(output)


def _needs_teacher(recipe: Recipe, output: Tensor, labels: Any) -> bool:
    return recipe.distillation > 0 or not has_classes(output, labels)


def _squared_error(given: Tensor, goal: Tensor) -> Tensor:
    return (given - goal).square().mean() / goal.var(correction=0).clamp(min=1e-12)


def _optimizers(student: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """One for weights, biases and batch norms; Adam for the logarithms of quantization steps, in any case.

    Gradients of steps differ by orders from layer to layer; Adam's updates are as large for all.
    """
    steps = [p for name, p in student.named_parameters() if name.endswith("log_step")]
    weights = [module.weight for module in student.modules() if isinstance(module, TrainedLayer)]
    known = {id(parameter) for parameter in (*steps, *weights)}
    others = [p for p in student.parameters() if id(p) not in known]
    groups = [
        {"params": weights, "weight_decay": WEIGHT_DECAYS[recipe.optimizer]},
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


def _batches(run: _Run, start: int) -> Iterator[Any]:
    """Batches of steps `start`, `start` + 1 ... without end; each epoch has an order of its own."""
    generator = torch.Generator().manual_seed(run.seed)
    loader = DataLoader(run.data, batch_sampler=_Orders(run, start), generator=generator)
    return iter(loader)


@dataclass(frozen=True, slots=True)
class _Orders:
    """Indices of the samples of each step, from `start` on."""

    run: _Run
    start: int

    def __iter__(self) -> Iterator[list[int]]:
        run = self.run
        epoch, first = divmod(self.start, run.steps_per_epoch)
        while True:
            generator = torch.Generator().manual_seed(seed_at(run.seed, -1 - epoch))
            order = torch.randperm(run.num_samples, generator=generator)
            for position in range(first, run.steps_per_epoch):
                yield order[position * run.batch_size : (position + 1) * run.batch_size].tolist()
            epoch, first = epoch + 1, 0


def _reestimate(run: _Run) -> None:
    """Batch-norm statistics of the weights as they are now, on samples as they are: running averages lag behind."""
    if not has_batch_norm(run.student):
        return
    count = max(min(STATISTICS_SAMPLES, run.num_samples) // run.batch_size, 1)
    source = _batches(run, 0)
    with seeded(run.seed, 0):
        inputs = [tuple(_channels_last(part) for part in _pair(next(source))[0]) for _ in range(count)]
    with run.autocast():
        measured = reestimate_batch_norm(run.student, inputs)
    run.student.load_state_dict(measured.state_dict())


def _pair(sample: Any) -> tuple[Batch, Any]:
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise ConfigurationError("train_data must hold pairs (input, label); fine-tuning reads both")
    inputs, labels = sample
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), labels


def _length(data: Dataset[Any]) -> int:
    count = len(data)  # type: ignore[arg-type]
    if count < 2:
        raise ConfigurationError(
            f"fine-tuning needs at least 2 samples in train_data, but got {count}; thousands are usual"
        )
    return int(count)


def _autocast_dtype(recipe: Recipe) -> torch.dtype | None:
    """bfloat16 where asked for, or where the CPU multiplies it: elsewhere it is emulated and slow."""
    if recipe.precision == "auto":
        has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_instructions else None
    return torch.bfloat16 if recipe.precision == "bfloat16" else None


def _copy_for_inference(graph: GraphModule) -> GraphModule:
    return _in_channels_last(copy.deepcopy(graph)).eval().requires_grad_(False)


def _in_channels_last(graph: GraphModule) -> GraphModule:
    """Change the layout of a module's weights: convolutions of images run faster."""
    changed: GraphModule = graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return changed


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def _describe(run: _Run, state: Checkpoint) -> str:
    epoch = state.step / run.steps_per_epoch
    progress = run.progress(state.step, state.elapsed_s)
    left_s = state.elapsed_s * (1 - progress) / progress if progress > 0 else math.nan
    of = "" if run.recipe.epochs is None else f" of {run.recipe.epochs:g}"
    return f"epoch {epoch:.2f}{of}, loss {state.loss:.3f}, {max(left_s, 0.0):.0f} s left"
