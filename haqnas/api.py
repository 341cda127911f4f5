"""The public calls: `compile` a model into an Artifact, `load` one, `profile` a target. Nothing here prints."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas.artifact import Artifact, check_files, load
from haqnas.devices.cache import KernelCache
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.devices.local import cpu_name, read_host_cpu
from haqnas.errors import ConfigurationError, DeviceError, HaqnasError
from haqnas.evaluate import Evaluate, Judges, dataset_length, probe_inputs
from haqnas.graph.layers import list_layers
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.grid import GRID
from haqnas.hardware import HardwareProfile, profile_path
from haqnas.latency_table import LatencyTable, Provenance
from haqnas.measure import Bench
from haqnas.options import Options, c_name, check_options, split_model
from haqnas.products import link_and_save
from haqnas.profiling import DEFAULT_BITS, Network, Survey, random_network, survey, write_profile
from haqnas.quantspec import QuantSpec
from haqnas.resume import hash_request, open_output, read_versions, stage_folder, taught_os_errors
from haqnas.space.policy import Policy
from haqnas.stages import Samples, calibration_samples, run_stages
from haqnas.timings import Timings

__all__ = ["Artifact", "Network", "Profiled", "Progress", "compile", "compile_file", "load", "profile"]

VAL_SAMPLES = 1000  # the integer graph takes about 5 ms a CIFAR image in PyTorch
STAGES = ("trace", "quantize", "score", "build", "link", "check", "save")


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage begins: number `index` of `total`; `index == total` says that all is done."""

    stage: str
    index: int
    total: int
    note: str


def compile(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    output: Path | str,
    target: str | HardwareProfile = "host",
    bits: str | Policy = "8",
    train_data: Dataset[Any] | None = None,
    calibration_data: Dataset[Any] | None = None,
    val_data: Dataset[Any] | None = None,
    evaluate: Evaluate | None = None,
    val_samples: int | None = VAL_SAMPLES,
    name: str = "model",
    seed: int = 0,
    threads: int = 1,
    tune_time_s: float = 0.0,
    formats: Sequence[str] = ("exe", "a"),
    cc: str | None = None,
    device: str | None = None,
    fresh: bool = False,
    cache_folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Artifact:
    """Quantize `model` and write the artefact for `target` into the directory `output`.

    `example_inputs` have batch 1; data are Datasets of (input without batch dimension, label). Calibration reads
    `calibration_data`, else `train_data`, else synthetic inputs. Accuracy is read on `val_data` by `evaluate(model,
    data)`, or as top-1 of `val_samples` of its samples, evenly spaced (None: all), else as agreement with the float
    model. `bits` is "8", "w4a8", "auto" (8 for now), the path of a
    policy.json, or a Policy. The binary runs on up to `threads` threads. In `tune_time_s` seconds kernels are chosen by
    measurement on the device instead of by rule; times are kept in `cache_folder`. `cc` names another C compiler than
    zig's, `device` another device than the default.
    The same call again goes on where it stopped, and returns at once where all is done; `fresh` starts anew.

    Raises ConfigurationError, UnsupportedModelError, DeviceError, VerificationError.
    """
    options = check_options(target, bits, name, formats, cc, device, seed, threads, tune_time_s)
    directory = Path(output)
    report = _Reporter(progress)
    with open_output(directory) as state, taught_os_errors(directory), _in_eval_mode(model):
        report("trace", "")
        canonical = normalise(trace(model, example_inputs))
        options.policy.check_layers([layer.name for layer in list_layers(canonical)])
        judges = Judges(val_data, evaluate, val_samples)
        given = {"calibration_data": calibration_data, "train_data": train_data}
        samples = calibration_samples(model, example_inputs, given, seed)
        versions = read_versions()
        request = _hash(options, canonical, samples, judges, example_inputs, versions)
        finished = None if fresh else _find_finished(directory, request)
        if finished is None:
            work = stage_folder(state, request, fresh)
            timings = Timings(cache_folder or default_cache_folder(), _timing_context(options, versions))
            compiled = run_stages(options, model, canonical, samples, judges, work, report, timings)
            finished = link_and_save(options, compiled, canonical, work, directory, versions, request, report)
        shutil.rmtree(state)
    report.done(f"{directory}")
    return finished


def compile_file(
    model_file: str,
    *,
    output: Path | str,
    target: str | HardwareProfile = "host",
    bits: str | Policy = "8",
    seed: int = 0,
    threads: int = 1,
    tune_time_s: float = 0.0,
    formats: Sequence[str] = ("exe", "a"),
    cc: str | None = None,
    device: str | None = None,
    val_samples: int | None = VAL_SAMPLES,
    fresh: bool = False,
    cache_folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Artifact:
    """`compile` with model and data from a model file, `model.py` or `model.py:BUILDER`; its stem names the model.

    Options and `output` are checked before the model is built, which may take long. Raises as `compile`.
    """
    path, builder = split_model(model_file)
    name = c_name(path.stem)
    check_options(target, bits, name, formats, cc, device, seed, threads, tune_time_s)
    with open_output(Path(output)), taught_os_errors(Path(output)):
        loaded = load_model(path, builder)
        data = {
            function: make() if make is not None else None
            for function, make in (
                ("train_data", loaded.train_data),
                ("calibration_data", loaded.calibration_data),
                ("val_data", loaded.val_data),
            )
        }
    return compile(
        loaded.model,
        loaded.example_inputs,
        output=output,
        target=target,
        bits=bits,
        **data,
        evaluate=loaded.evaluate,
        val_samples=val_samples,
        name=name,
        seed=seed,
        threads=threads,
        tune_time_s=tune_time_s,
        formats=formats,
        cc=cc,
        device=device,
        fresh=fresh,
        cache_folder=cache_folder,
        progress=progress,
    )


@dataclass(frozen=True, slots=True)
class Profiled:
    """A profile that was written, and what it found."""

    path: Path
    survey: Survey
    table: LatencyTable


def profile(
    target: str,
    *,
    output: Path | str,
    networks: Sequence[Network] = (),
    model_files: Sequence[str] = (),
    bits: Sequence[str] = (),
    device: str | None = None,
    cc: str | None = None,
    cache_folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Profiled:
    """Measure the kernels of `target` and write them with the bits worth choosing as the profile `output`.

    Shapes are those of `networks` and of model files (`model.py` or `model.py:BUILDER`); of neither, those of a grid.
    `bits` such as "w4a8"; none: weights of 8, 6, 4, 3, 2 and 1 bits with activations of 8, 4 and 2. The same call goes
    on where an interrupted one stopped. Raises ConfigurationError, UnsupportedModelError, DeviceError.
    """
    path = Path(output)
    specs = [QuantSpec.parse(text) for text in bits] or list(DEFAULT_BITS)
    options = check_options(target, "8", "kernels", ("exe",), cc, device, 0, 1, 0.0)
    if path.suffix != ".toml":
        raise ConfigurationError(f"a profile is a file such as my-board.toml, but got {path}")
    if options.device is None:
        raise DeviceError(
            f"nothing here runs the target {options.profile.name!r}; name a device with --device, "
            "or install its emulator (apt install qemu-user)"
        )
    chosen = [*networks, *map(_network_of_file, model_files)]
    chosen = chosen or [random_network(name, make, 0) for name, make in GRID.items()]
    context = _kernel_context(options, read_versions())
    cache = KernelCache(cache_folder or default_cache_folder(), context)
    bench = Bench(options.profile, options.linker, options.device, cache, time.time)
    with tempfile.TemporaryDirectory(prefix="haqnas-") as folder, taught_os_errors(path.parent):
        found = survey(chosen, specs, bench, Path(folder), _profile_report(progress))
        base = profile_path(target, read_host_cpu())
        table = write_profile(base, found, _provenance(options, context, chosen), path)
    return Profiled(path, found, table)


def _network_of_file(model_file: str) -> Network:
    path, builder = split_model(model_file)
    loaded = load_model(path, builder)
    return Network(
        c_name(path.stem) + (f":{builder}" if builder else ""), loaded.model, loaded.example_inputs
    )


def _kernel_context(options: Options, versions: dict[str, str]) -> dict[str, str]:
    """All that the time of a kernel depends on besides its function and signature."""
    target = {
        name: value for name, value in asdict(options.profile).items() if name not in ("bits", "description")
    }
    return {
        "target": json.dumps(target, sort_keys=True, default=str),
        "device": options.device.uri if options.device else "",
        "machine": options.device.fingerprint().key if options.device else "",
        "haqnas_source": versions["haqnas_source"],
        "tvm": versions["apache-tvm"],
    }


# Of a fingerprint, what stays as it is from one run to the next.
_LASTING = (
    "key",
    "cpu",
    "board",
    "arch",
    "cores",
    "pinned_cores",
    "max_frequency_hz",
    "governor",
    "emulator",
)


def _provenance(options: Options, context: dict[str, str], networks: Sequence[Network]) -> Provenance:
    assert options.device is not None
    is_measured = options.device.latency_kind == "measured"
    machine = options.device.fingerprint().to_document()
    return Provenance(
        kind=options.device.latency_kind,
        unit="ns" if is_measured else "instructions",
        device=options.device.uri,
        date=datetime.now(UTC).date().isoformat(),
        versions={name: context[name] for name in ("haqnas_source", "tvm")} | {"haqnas": version("haqnas")},
        machine={name: str(value) for name, value in machine.items() if name in _LASTING},
        networks=tuple(network.name for network in networks),
    )


def _profile_report(progress: Callable[[Progress], None] | None) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, note: str) -> None:
        if progress is not None:
            progress(Progress("profile", done, total, note))

    return report


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and each part back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Reporter:
    """Tells the caller's callback which stage begins."""

    def __init__(self, callback: Callable[[Progress], None] | None) -> None:
        self._callback = callback

    def __call__(self, stage: str, note: str) -> None:
        if self._callback is not None:
            self._callback(Progress(stage, STAGES.index(stage), len(STAGES), note))

    def done(self, note: str) -> None:
        if self._callback is not None:
            self._callback(Progress("done", len(STAGES), len(STAGES), note))


def _timing_context(options: Options, versions: dict[str, str]) -> dict[str, str | int]:
    """All that a timing depends on besides the layer and its kernel."""
    return {
        "profile": json.dumps(asdict(options.profile), sort_keys=True, default=str),
        "device": options.device.uri if options.device else "",
        "cpu": cpu_name(),
        "threads": options.threads,
        "haqnas_source": versions["haqnas_source"],
        "tvm": versions["apache-tvm"],
    }


def _hash(
    options: Options,
    canonical: GraphModule,
    samples: Samples,
    judges: Judges,
    example_inputs: tuple[Tensor, ...],
    versions: dict[str, str],
) -> str:
    val_data, evaluate = judges.val_data, judges.evaluate
    settings = {
        "profile": asdict(options.profile),
        "policy": options.policy.to_json(),
        "name": options.name,
        "formats": options.formats,
        "seed": options.seed,
        "threads": options.threads,
        "tune_time_s": options.tune_time_s,
        "cc": options.cc,
        "device": options.device.uri if options.device else None,
        "table": None if options.table is None else asdict(options.table.provenance),
        "source": samples.source,
        "val_samples": judges.num_samples,
        "val_length": None if val_data is None else dataset_length(val_data, "val_data"),
        "evaluate": None if evaluate is None else getattr(evaluate, "__qualname__", "callable"),
        "versions": versions,
    }
    # All of a large test set would take longer to read than the rest of a resumed run: some of it stands for it.
    scored = () if val_data is None else probe_inputs(val_data, "val_data", example_inputs)
    # Synthetic inputs follow from the model, the example inputs and the seed, and take seconds to make.
    calibrated = [part for batch in samples.given for part in batch] or example_inputs
    return hash_request(canonical, [*calibrated, *scored], settings)


def _find_finished(directory: Path, request: str) -> Artifact | None:
    """The artefact that this very request made before, where it is whole."""
    try:
        found = load(directory)
        if found.manifest.request_sha256 != request:
            return None
        check_files(found)
    except HaqnasError:
        return None  # none, incomplete or damaged: compile
    return found
