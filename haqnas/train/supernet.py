"""Supernet: one set of weights for all networks of an architecture space, trained together.

A step trains the largest network, the smallest and some drawn ones on the same images (sandwich rule) and adds up their
gradients. The largest learns from labels and from the float network, the others from the largest as it is in this step
(in-place distillation). As in fine-tuning, all that is random in a step follows from (seed, step), and a checkpoint
holds all that a step changes: an interrupted run goes on to the same bits.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional
from torch.utils.data import Dataset

from haqnas.errors import ConfigurationError
from haqnas.graph.choices import take_branches
from haqnas.graph.digest import add_graph
from haqnas.rewrite.batch_norm import reestimate_batch_norm
from haqnas.rewrite.calibrate import Batch
from haqnas.rewrite.elastic import Structure, cut_network, read_structure, run_cut
from haqnas.rewrite.shared import (
    NormedLayer,
    SharedLayer,
    fold_measured,
    insert_cut,
    measure_statistics,
    share_weights,
)
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureSpace, KnobKind
from haqnas.train.batches import Source, batches_from, channels_last, read_batch, source_of
from haqnas.train.checkpoint import Checkpoint
from haqnas.train.loop import Kept, Length, Note, Step, run_steps
from haqnas.train.loss import loss_of
from haqnas.train.precision import autocast, autocast_dtype, copy_for_inference, in_channels_last
from haqnas.train.recipe import learning_rate_factor
from haqnas.train.sandwich import sandwich, space_at
from haqnas.train.supernet_recipe import SupernetRecipe

CLIPPED_NORM = 5.0  # of the gradient of all networks of a step


@dataclass(frozen=True, slots=True)
class SupernetTraining:
    """How long the shared weights were trained."""

    num_steps: int
    epochs: float
    time_s: float
    loss: float  # mean over networks and the last steps; NaN without training


@dataclass(frozen=True, slots=True)
class Supernet:
    """Shared weights of all networks of a space; `structure` holds the network and the space that they are of."""

    structure: Structure
    shared: GraphModule
    training: SupernetTraining

    @property
    def space(self) -> ArchitectureSpace:
        return self.structure.space

    def cut(self, candidate: Architecture, batches: Sequence[Batch]) -> GraphModule:
        """The canonical graph of a candidate, batch-norm statistics measured on `batches` and folded.

        Batches are inputs of the whole network: images are made smaller here for a candidate of lower resolution.
        Raises ConfigurationError for what is not in the space, and for batches of less than two samples.
        """
        structure = self.structure
        cut = cut_network(structure, candidate)
        graph = specialise(structure.canonical, structure.space, candidate)
        names = dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
        for name in names:
            layer = self.shared.get_submodule(name)
            assert isinstance(layer, SharedLayer)
            insert_cut(graph, name, layer, cut.parts.get(name), cut.sizes.get(name))
        if not any(isinstance(module, NormedLayer) for module in graph.modules()):
            return graph
        if any(len(part) < 2 for batch in batches for part in batch):
            raise ConfigurationError(
                "batch-norm statistics of a network that is cut out need batches of at least 2 samples, but got one "
                "of 1; hundreds are usual"
            )
        resized = [resize_images(structure.space, candidate, batch) for batch in batches]
        measured = reestimate_batch_norm(graph, resized)
        assert isinstance(measured, GraphModule)
        return fold_measured(measured)


def resize_images(space: ArchitectureSpace, candidate: Architecture, batch: Batch) -> Batch:
    """Images (n, c, h, w) in a candidate's resolution, smoothed; other batches, and the whole resolution, as they are.

    Data for a network of lower resolution are made the same way.
    """
    knob = next((knob for knob in space.knobs if knob.kind is KnobKind.RESOLUTION), None)
    height = None if knob is None else candidate.choices.get(knob.name, knob.choices[0])
    if knob is None or height is None or height == knob.choices[0]:
        return batch
    (images,) = batch  # networks with a resolution to choose have one input
    size = (height, images.shape[3] * height // images.shape[2])
    return (functional.interpolate(images, size, mode="bilinear", antialias=True),)


def train_supernet(
    canonical: GraphModule,
    space: ArchitectureSpace,
    train_data: Dataset[Any] | None,
    batches: Sequence[Batch],
    recipe: SupernetRecipe,
    seed: int,
    checkpoint: Path | None = None,
    note: Note | None = None,
) -> Supernet:
    """Train weights for all networks of `space`, beginning with those of `canonical`, which is unchanged.

    `train_data` holds pairs (input without batch dimension, label); labels count where the first output is
    (n, classes) and labels are class indices, else networks learn the outputs of `canonical` alone. None where the
    recipe does not train. `batches` are inputs on which batch norms get their first factors. `checkpoint` is written
    now and then, and where it exists training goes on from there.
    Raises ConfigurationError for data that does not fit, and when the loss is not finite.
    """
    structure = read_structure(canonical, space)
    shared = share_weights(canonical, space, measure_statistics(canonical, batches))
    if not recipe.trains:
        return Supernet(structure, shared, SupernetTraining(0, 0.0, 0.0, math.nan))
    if train_data is None:
        raise ConfigurationError(
            "training shared weights needs training data, but there is none; give train_data, or a supernet time of 0 "
            "for the weights as they are"
        )
    run = _prepare(structure, shared, train_data, recipe, seed)
    state = _train(run, checkpoint, note or (lambda _text: None))
    epochs = state.step / run.source.steps_per_epoch
    return Supernet(structure, shared, SupernetTraining(state.step, epochs, state.elapsed_s, state.loss))


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same from step to step, and the modules that steps change."""

    structure: Structure
    shared: GraphModule
    teacher: GraphModule
    optimizer: torch.optim.Optimizer
    source: Source
    recipe: SupernetRecipe
    seed: int
    autocast_dtype: torch.dtype | None

    @property
    def length(self) -> Length:
        return Length(self.recipe.epochs, self.recipe.time_s, self.source.steps_per_epoch)


def _prepare(
    structure: Structure, shared: GraphModule, data: Dataset[Any], recipe: SupernetRecipe, seed: int
) -> _Run:
    return _Run(
        structure=structure,
        shared=in_channels_last(shared).train(),
        teacher=copy_for_inference(take_branches(structure.canonical)),
        optimizer=_optimizer(shared, recipe),
        source=source_of(data, recipe.batch_size, seed),
        recipe=recipe,
        seed=seed,
        autocast_dtype=autocast_dtype(recipe.precision),
    )


def _optimizer(shared: nn.Module, recipe: SupernetRecipe) -> torch.optim.Optimizer:
    """Only weights of layers decay."""
    weights = [module.weight for module in shared.modules() if isinstance(module, SharedLayer)]
    known = {id(weight) for weight in weights}
    others = [parameter for parameter in shared.parameters() if id(parameter) not in known]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def _train(run: _Run, path: Path | None, note: Note) -> Checkpoint:
    def begin(start: int) -> Step:
        batches = batches_from(run.source, start)
        return lambda step, progress: _step(run, batches, step, progress)

    kept = Kept(path, run.shared, (run.optimizer,), _request(run))
    return run_steps(run.length, kept, begin, lambda text: note(f"supernet: {text}"))


def _request(run: _Run) -> str:
    """What a run must have in common with the one that it goes on from; of its data only their number."""
    told = (run.recipe, run.seed, run.structure.space, run.source.num_samples)
    digest = hashlib.sha256(repr(told).encode())
    add_graph(digest, run.structure.canonical)
    return digest.hexdigest()


def _step(run: _Run, batches: Iterator[Any], step: int, progress: float) -> float:
    """One update; gives the mean loss of its networks."""
    recipe = run.recipe
    inputs, labels = read_batch(run.source, batches, step, recipe.augmentation)
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.learning_rate * learning_rate_factor(progress, recipe.warmup)
    run.optimizer.zero_grad(set_to_none=True)
    opened = space_at(run.structure.space, progress, recipe.shrinking)
    has_largest = step % recipe.largest_every == 0
    candidates = sandwich(opened, run.seed, step, recipe.num_random, recipe.largest_every)
    with torch.no_grad(), autocast(run.autocast_dtype):
        wanted = run.teacher(*inputs)
    lesson = Lesson(inputs, labels, tuple(wanted), recipe, run.autocast_dtype)
    value = add_gradients(run.structure, run.shared, candidates, lesson, has_largest)
    if not math.isfinite(value):
        raise ConfigurationError(
            f"the loss must be finite, but it was {value} in step {step + 1} of training shared weights; give a lower "
            f"learning rate than {recipe.learning_rate:g}, or look for NaN in train_data"
        )
    nn.utils.clip_grad_norm_(run.shared.parameters(), CLIPPED_NORM)
    run.optimizer.step()
    return value


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the networks of a step learn from."""

    inputs: Batch
    labels: Any
    wanted: tuple[Tensor, ...]  # outputs of the float network
    recipe: SupernetRecipe
    autocast_dtype: torch.dtype | None


def add_gradients(
    structure: Structure,
    shared: GraphModule,
    candidates: Sequence[Architecture],
    lesson: Lesson,
    first_teaches: bool,
) -> float:
    """Add the gradients of all `candidates` to those of the shared weights; gives the mean of their losses.

    `first_teaches`: the outputs of the first one are what the others learn, rather than those of the float network.
    """
    recipe, wanted = lesson.recipe, lesson.wanted
    losses: list[float] = []
    for candidate in candidates:
        resized = resize_images(structure.space, candidate, lesson.inputs)
        with autocast(lesson.autocast_dtype):
            outputs = run_cut(shared, cut_network(structure, candidate), [channels_last(x) for x in resized])
        loss = loss_of(
            outputs,
            wanted,
            lesson.labels,
            distillation=recipe.distillation,
            temperature=recipe.temperature,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        if first_teaches and len(losses) == 1:
            wanted = tuple(part.detach() for part in outputs)
    return sum(losses) / len(losses)
