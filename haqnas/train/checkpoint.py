"""Checkpoints of a training run: written beside and renamed, so that a kill at any time leaves a whole one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from haqnas.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a run is; the modules' and optimizers' state lies beside it in the file."""

    step: int  # updates done
    elapsed_s: float  # over all runs
    loss: float  # smoothed; NaN before the first step


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as it was read."""

    content: dict[str, Any]

    def load(self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Checkpoint:
        """Put the state into a module and its optimizers."""
        module.load_state_dict(self.content["module"])
        for optimizer, state in zip(optimizers, self.content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return Checkpoint(self.content["step"], self.content["elapsed_s"], self.content["loss"])


def write_checkpoint(
    path: Path,
    state: Checkpoint,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    request: str = "",
) -> None:
    """Write the file, or leave the old one. `request` tells runs apart that must not go on from each other."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    content = {
        "request": request,
        "step": state.step,
        "elapsed_s": state.elapsed_s,
        "loss": state.loss,
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    try:
        torch.save(content, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path, request: str | None = "") -> Saved | None:
    """None where there is none; raises ConfigurationError for a file that is damaged, or of another request.

    `request`: None for any.
    """
    if not path.exists():
        return None
    try:
        saved = Saved(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ConfigurationError(
            f"the checkpoint {path} is damaged ({type(error).__name__}); run the same again with --fresh, or remove it"
        ) from error
    if request is not None and saved.content.get("request", "") != request:
        raise ConfigurationError(
            f"the checkpoint {path} is of another training: network, space, recipe, seed or data differ; remove it, or "
            "give the path of another one"
        )
    return saved


def remove_damaged(path: Path) -> None:
    """Take away a file that no checkpoint can be read from, so that its training begins anew."""
    try:
        read_checkpoint(path, None)
    except ConfigurationError:
        path.unlink()
