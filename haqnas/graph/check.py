"""Check a model and its example inputs before anything is traced, so that mistakes are named where they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.graph.location import at, error_place


def check_model(model: Any, example_inputs: Any) -> None:
    """Raise where the model is no module, the inputs are no batch of one, or a number is not float32 and finite.

    Raises ConfigurationError for wrong inputs, UnsupportedModelError for weights that cannot be quantized.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"a model must be a torch.nn.Module, but got {type(model).__name__}")
    check_example_inputs(example_inputs)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        _check_weight(name, value)


def check_example_inputs(example_inputs: Any) -> None:
    """Raise unless `example_inputs` is a tuple of float32 tensors with batch size 1."""
    rule = "example inputs must be a tuple of float32 tensors with batch size 1, such as (torch.randn(1, 3, 32, 32),)"
    if isinstance(example_inputs, Tensor):
        raise ConfigurationError(f"{rule}, but got a tensor; add a comma: (x,)")
    if not isinstance(example_inputs, tuple) or not example_inputs:
        got = "an empty tuple" if example_inputs == () else type(example_inputs).__name__
        raise ConfigurationError(f"{rule}, but got {got}")
    for index, value in enumerate(example_inputs):
        if not isinstance(value, Tensor):
            raise ConfigurationError(f"{rule}, but input {index} is of type {type(value).__name__}")
        if value.dtype != torch.float32:
            raise UnsupportedModelError(
                f"inputs must be float32, but input {index} is {_dtype_name(value)}\n"
                "  Convert it with .float(); look up integers (tokens, classes) outside of the model."
            )
        if value.dim() == 0 or value.shape[0] != 1:
            raise ConfigurationError(
                f"the batch size (the first dimension) must be 1, but input {index} has shape {tuple(value.shape)}; "
                "use x[:1], or x.unsqueeze(0) where the batch dimension is missing"
            )
        if value.device.type != "cpu":
            raise ConfigurationError(
                f"inputs must be on the CPU, but input {index} is on {value.device}; use .cpu()"
            )
        if not bool(torch.isfinite(value).all()):
            raise ConfigurationError(
                f"example inputs must be finite, but input {index} has NaN or infinite values"
            )


def run_forward(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    """Run the model once in eval mode; raises ConfigurationError, with the user's line, where it fails."""
    try:
        with torch.no_grad(), in_eval_mode(model):
            return model(*(value.clone() for value in example_inputs))
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in example_inputs)
        raise ConfigurationError(
            f"the model must run on its example inputs, but forward() on {shapes} raises "
            f"{describe_error(error)}{at(error_place(error.__traceback__))}\n"
            "  Return inputs of the shape that the model was made for from example_inputs()."
        ) from error


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and each part back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def describe_error(error: BaseException) -> str:
    """Class and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _check_weight(name: str, value: Tensor) -> None:
    if value.device.type != "cpu":
        raise UnsupportedModelError(
            f"the model must be on the CPU, but {name} is on {value.device}; use model.cpu()"
        )
    if not value.is_floating_point() and not value.is_complex():
        return  # counters, masks and indices
    if value.dtype != torch.float32:
        raise UnsupportedModelError(
            f"weights must be float32, but {name} is {_dtype_name(value)}; convert the model with model.float()"
        )
    if value.numel() and not bool(torch.isfinite(value).all()):
        num_bad = int((~torch.isfinite(value)).sum())
        raise UnsupportedModelError(
            f"weights must be finite, but {name} has {num_bad} NaN or infinite values of {value.numel()}\n"
            "  Load the weights of a training that has not diverged."
        )


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
