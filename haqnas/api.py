"""The public calls: `compile` a model into an Artifact, `load` one, `profile` a target. Nothing here prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor, nn
from torch.utils.data import Dataset

from haqnas.artifact import Artifact, load
from haqnas.compilation import Reporter, plan_task, read_subject, run_task
from haqnas.evaluate import Evaluate, Judges
from haqnas.graph.check import in_eval_mode
from haqnas.graph.load import load_model
from haqnas.hardware import HardwareProfile
from haqnas.options import c_name, check_options, split_model
from haqnas.profiler import Profiled, profile
from haqnas.profiling import Network
from haqnas.progress import Progress
from haqnas.resume import open_output, taught_os_errors
from haqnas.settings import CompileOptions, Settings, SharedOptions
from haqnas.targets import TargetResult, open_outputs, order_targets, run_all

__all__ = [
    "Artifact",
    "Network",
    "Profiled",
    "Progress",
    "TargetResult",
    "compile",
    "compile_file",
    "compile_file_for_targets",
    "compile_for_targets",
    "load",
    "profile",
]


class _Loaded(TypedDict):
    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    train_data: Dataset[Any] | None
    calibration_data: Dataset[Any] | None
    val_data: Dataset[Any] | None
    evaluate: Evaluate | None


def compile(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    output: Path | str,
    name: str = "model",
    train_data: Dataset[Any] | None = None,
    calibration_data: Dataset[Any] | None = None,
    val_data: Dataset[Any] | None = None,
    evaluate: Evaluate | None = None,
    **options: Unpack[CompileOptions],
) -> Artifact:
    """Quantize `model` and write the artefact into the directory `output`; `haqnas.settings` lists the options.

    `example_inputs` have batch 1; data are Datasets of (input without batch dimension, label). Calibration reads
    `calibration_data`, else `train_data`, else synthetic inputs. Accuracy is read on `val_data` by `evaluate(model,
    data)`, or as top-1 of `val_samples` of its samples, evenly spaced (None: all), else as agreement with the float
    model. `name` is that of the binary and its C functions.
    The same call again goes on where it stopped, and returns at once where all is done; `fresh` starts anew.

    Raises ConfigurationError, UnsupportedModelError, DeviceError, VerificationError.
    """
    settings = Settings(**options)
    checked = check_options(name, settings)
    directory = Path(output)
    report = Reporter(settings.progress)
    with open_output(directory) as state, taught_os_errors(directory), in_eval_mode(model):
        given = {"calibration_data": calibration_data, "train_data": train_data}
        judges = Judges(val_data, evaluate, settings.val_samples)
        subject = read_subject(model, example_inputs, given, judges, settings, report)
        task = plan_task(subject, checked, directory, state)
        task.check_ready()
        finished = run_task(subject, task, report)
    report.done(f"{directory}")
    return finished


def compile_for_targets(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    targets: Sequence[str | HardwareProfile],
    output: Path | str,
    name: str = "model",
    train_data: Dataset[Any] | None = None,
    calibration_data: Dataset[Any] | None = None,
    val_data: Dataset[Any] | None = None,
    evaluate: Evaluate | None = None,
    **options: Unpack[SharedOptions],
) -> tuple[TargetResult, ...]:
    """`compile` for each of `targets`, one after the other, into the directories `output`/TARGET.

    What they have in common is made once: the canonical graph, what is read of the data, sensitivities and trained
    shared weights. All that can be told before the work is told before any of it, and raises as `compile`. A
    HaqnasError that ends the work on one target is in its result, and the next one begins.
    """
    orders = order_targets(targets, Path(output), name, options)
    report = Reporter(options.get("progress"), orders[0].target, len(orders))
    with open_outputs(Path(output), orders) as states, in_eval_mode(model):
        given = {"calibration_data": calibration_data, "train_data": train_data}
        settings = orders[0].options.settings
        judges = Judges(val_data, evaluate, settings.val_samples)
        subject = read_subject(model, example_inputs, given, judges, settings, report)
        tasks = [
            plan_task(subject, order.options, order.directory, state)
            for order, state in zip(orders, states, strict=True)
        ]
        results = run_all(subject, orders, tasks, options.get("progress"))
    report.done(f"{output}")
    return results


def compile_file(model_file: str, *, output: Path | str, **options: Unpack[CompileOptions]) -> Artifact:
    """`compile` with model and data from a model file, `model.py` or `model.py:BUILDER`; its stem names the model.

    Options and `output` are checked before the model is built, which may take long. Raises as `compile`.
    """
    path, builder = split_model(model_file)
    name = c_name(path.stem)
    check_options(name, Settings(**options))
    with open_output(Path(output)), taught_os_errors(Path(output)):
        loaded = _load(path, builder)
    return compile(**loaded, output=output, name=name, **options)


def compile_file_for_targets(
    model_file: str,
    *,
    targets: Sequence[str | HardwareProfile],
    output: Path | str,
    **options: Unpack[SharedOptions],
) -> tuple[TargetResult, ...]:
    """`compile_for_targets` with model and data from a model file, as `compile_file`."""
    path, builder = split_model(model_file)
    name = c_name(path.stem)
    with open_outputs(Path(output), order_targets(targets, Path(output), name, options)):
        loaded = _load(path, builder)
    return compile_for_targets(**loaded, targets=targets, output=output, name=name, **options)


def _load(path: Path, builder: str | None) -> _Loaded:
    """Keywords of `compile`."""
    loaded = load_model(path, builder)
    return {
        "model": loaded.model,
        "example_inputs": loaded.example_inputs,
        "train_data": loaded.train_data() if loaded.train_data is not None else None,
        "calibration_data": loaded.calibration_data() if loaded.calibration_data is not None else None,
        "val_data": loaded.val_data() if loaded.val_data is not None else None,
        "evaluate": loaded.evaluate,
    }
