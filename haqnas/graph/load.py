"""Read a model file: the user's Python module with `build_model()` and `example_inputs()`."""

import contextlib
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from haqnas.errors import ConfigurationError
from haqnas.graph.check import check_example_inputs, check_model, describe_error, run_forward
from haqnas.graph.location import at, error_place, format_place

MakeDataset = Callable[[], Dataset[Any]]
Evaluate = Callable[[nn.Module, Any], float]

_EXAMPLE = """  A model file holds:
    def build_model():
        return MyModel()
    def example_inputs():
        return (torch.randn(1, 3, 32, 32),)"""


@dataclass(frozen=True)
class ModelFile:
    """What a model file offers; the optional functions are None where the file has none."""

    path: Path
    model: nn.Module  # in eval mode
    example_inputs: tuple[Tensor, ...]  # batch size 1
    train_data: MakeDataset | None
    val_data: MakeDataset | None
    calibration_data: MakeDataset | None
    evaluate: Evaluate | None  # higher is better


def load_model(path: Path, builder: str | None = None) -> ModelFile:
    """Load the model of a file; `builder` names another function than `build_model`.

    The file may import its neighbours; what it prints goes to stderr, and random weights are drawn with seed 0,
    so that they are the same each time. The model is checked and run once on its example inputs.
    Raises ConfigurationError, or UnsupportedModelError for weights and dtypes that cannot be quantized.
    """
    path = path.resolve()
    module = _import(path)
    build = _function(module, path, builder or "build_model", is_required=True)
    make_inputs = _function(module, path, "example_inputs", is_required=True)
    assert build is not None
    assert make_inputs is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        inputs = make_inputs()
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"{builder or 'build_model'}() in {path} must return a torch.nn.Module, but returned "
            f"{type(model).__name__}"
        )
    try:
        check_example_inputs(inputs)
        check_model(model, inputs)
        with _user_code(path.parent):
            run_forward(model.eval(), inputs)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return ModelFile(
        path=path,
        model=model,
        example_inputs=inputs,
        train_data=_function(module, path, "train_data"),
        val_data=_function(module, path, "val_data"),
        calibration_data=_function(module, path, "calibration_data"),
        evaluate=_function(module, path, "evaluate"),
    )


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        found = "a directory" if path.is_dir() else "not there"
        raise ConfigurationError(f"the model must be a Python file, but {path} is {found}")
    if path.suffix != ".py":
        raise ConfigurationError(f"the model must be a Python file (.py), but got {path}")
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"haqnas_model_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data loaders and dataclasses look their module up by name
    try:
        with _user_code(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigurationError(
            f"the model file must be importable, but importing {path} raises {describe_error(error)}"
            f"{at(_place(error))}\n  Keep training and scripts under `if __name__ == '__main__':`."
        ) from error
    return module


def _place(error: BaseException) -> str | None:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return format_place(error.filename, error.lineno, error.text)
    return error_place(error.__traceback__)


def _function(
    module: ModuleType, path: Path, name: str, is_required: bool = False
) -> Callable[..., Any] | None:
    """A function of the model file that runs with the file's folder importable, and teaches when it raises."""
    function = getattr(module, name, None)
    if function is None and not is_required:
        return None
    if function is None:
        raise ConfigurationError(f"the model file must define {name}(), but {path} does not\n{_EXAMPLE}")
    if not callable(function):
        raise ConfigurationError(
            f"{name} in {path} must be a function, but is of type {type(function).__name__}\n{_EXAMPLE}"
        )

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            with _user_code(path.parent):
                return function(*args)
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"{name}() in {path} raises {describe_error(error)}{at(_place(error))}"
            ) from error

    return call


@contextlib.contextmanager
def _user_code(folder: Path) -> Iterator[None]:
    """Let the user's code import its neighbours, and keep its prints off stdout, which may carry JSON."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)
