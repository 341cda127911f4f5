"""The loop of a training: steps until its length is reached, notes, and checkpoints that it goes on from."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from haqnas.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

CHECKPOINT_INTERVAL_S = 30.0
NOTE_INTERVAL_S = 10.0

Note: TypeAlias = Callable[[str], None]
Step: TypeAlias = Callable[[int, float], float]  # number and progress of a step, which gives its loss


@dataclass(frozen=True, slots=True)
class Length:
    """When a training ends: by epochs, by time, or by whichever of the two is earlier."""

    epochs: float | None
    time_s: float | None
    steps_per_epoch: int

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share that is done; steps or time, whichever is further."""
        steps = None if self.epochs is None else math.ceil(self.epochs * self.steps_per_epoch)
        by_steps = 0.0 if steps is None else step / steps
        by_time = 0.0 if self.time_s is None else elapsed_s / self.time_s
        return max(by_steps, by_time)

    def describe(self, state: Checkpoint) -> str:
        """How far it is, in words."""
        progress = self.progress(state.step, state.elapsed_s)
        left_s = state.elapsed_s * (1 - progress) / progress if progress > 0 else math.nan
        of = "" if self.epochs is None else f" of {self.epochs:g}"
        epoch = state.step / self.steps_per_epoch
        return f"epoch {epoch:.2f}{of}, loss {state.loss:.3f}, {max(left_s, 0.0):.0f} s left"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a checkpoint holds: the state of a module and its optimizers. `request` tells trainings apart.

    `path`: where, None for none.
    """

    path: Path | None
    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    request: str = ""

    def read(self) -> Checkpoint:
        """Where the training stands; raises ConfigurationError for a damaged file, or one of another request."""
        saved = None if self.path is None else read_checkpoint(self.path, self.request)
        return Checkpoint(0, 0.0, math.nan) if saved is None else saved.load(self.module, self.optimizers)

    def write(self, state: Checkpoint) -> None:
        if self.path is not None:
            write_checkpoint(self.path, state, self.module, self.optimizers, self.request)


def run_steps(length: Length, kept: Kept, begin: Callable[[int], Step], note: Note) -> Checkpoint:
    """Train to the end from where the checkpoint stands; `begin` gives the steps from a number on."""
    state = kept.read()
    started_s, saved_s, noted_s = time.monotonic() - state.elapsed_s, time.monotonic(), 0.0
    step = begin(state.step)
    while (progress := length.progress(state.step, state.elapsed_s)) < 1.0:
        loss = step(state.step, progress)
        now_s = time.monotonic()
        smooth = loss if math.isnan(state.loss) else 0.98 * state.loss + 0.02 * loss
        state = Checkpoint(state.step + 1, now_s - started_s, smooth)
        if now_s - saved_s > CHECKPOINT_INTERVAL_S:
            kept.write(state)
            saved_s = now_s
        if now_s - noted_s > NOTE_INTERVAL_S:
            note(length.describe(state))
            noted_s = now_s
    kept.write(state)
    note(length.describe(state))
    return state
