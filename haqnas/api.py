"""The public calls: `compile` a model into an Artifact, `load` one, `profile` a target. Nothing here prints."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas.artifact import STUDY, Artifact, check_files, load
from haqnas.baseline import build_to_ship, is_uniform
from haqnas.bit_search import is_cut_short
from haqnas.bit_stage import choose_bits, given_policy
from haqnas.devices.cache import KernelCache, kernel_context
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.errors import HaqnasError
from haqnas.evaluate import Evaluate, Judges, dataset_length, probe_inputs
from haqnas.graph.check import in_eval_mode
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import Options, c_name, check_options, split_model
from haqnas.products import link_and_save
from haqnas.profiler import Profiled, profile
from haqnas.profiling import Network
from haqnas.progress import Progress, Report
from haqnas.resume import hash_request, open_output, stage_folder, taught_os_errors
from haqnas.search.state import SearchState
from haqnas.search_data import Given
from haqnas.settings import CompileOptions, Settings, hashed_settings
from haqnas.space.policy import Policy
from haqnas.stages import Compiled, Samples, calibration_samples, run_stages
from haqnas.stages import Report as Tell
from haqnas.train.seeds import seeded
from haqnas.train_stage import check_train_data
from haqnas.tune import TIMED_AS, require_clock
from haqnas.versions import read_versions

__all__ = ["Artifact", "Network", "Profiled", "Progress", "compile", "compile_file", "load", "profile"]

STAGES = ("trace", "bits", "quantize", "score", "build", "compare", "link", "check", "save")


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
    report = _Reporter(settings.progress)
    with open_output(directory) as state, taught_os_errors(directory), in_eval_mode(model):
        report("trace", "")
        canonical = normalise(trace(model, example_inputs))
        policy = given_policy(checked, canonical)
        judges = Judges(val_data, evaluate, settings.val_samples)
        given = {"calibration_data": calibration_data, "train_data": train_data}
        versions = read_versions()
        with seeded(settings.seed, 0):  # training data may change from read to read
            samples = calibration_samples(model, example_inputs, given, settings.seed)
            lessons = check_train_data(checked, train_data, example_inputs)
            request = _hash(checked, policy, canonical, samples, judges, train_data, example_inputs, versions)
        earlier = None if settings.fresh else _find_finished(directory, request)
        finished = None if earlier is None or _has_more_to_search(earlier, settings) else earlier
        if finished is None:
            if checked.device is not None and settings.device is not None:
                checked.device.fingerprint()  # a board that cannot be reached is told before the work
            work = stage_folder(state, request, settings.fresh)
            if earlier is not None and not (work / STUDY).exists():
                shutil.copy(directory / STUDY, work / STUDY)
            cache_folder = settings.cache_folder or default_cache_folder()
            report("bits", "to be searched" if policy is None else str(policy.default))
            batches = samples.read()
            data = Given(
                *(model, canonical, example_inputs, batches, samples.source, train_data, evaluate),
                ptq=settings.ptq,
            )
            chosen = choose_bits(checked, policy, data, work, cache_folder, versions, partial(report, "bits"))
            timings = _timings(checked, versions, cache_folder)

            def make(policy: Policy, folder: Path, tell: Tell, float_score: float | None) -> Compiled:
                is_asked = folder == work  # the uniform int8 to compare with is the whole network, untrained
                network = chosen.network if is_asked and chosen.network is not None else canonical
                return run_stages(
                    *(checked, policy, model, network, canonical, batches, samples.source),
                    *(lessons if is_asked else None, judges, folder, tell, timings, float_score),
                )

            compiled, built, baseline = build_to_ship(
                *(checked, chosen.policy, chosen.network is None and is_uniform(chosen.policy, canonical)),
                *(make, work, report),
                is_chosen=chosen.is_for_speed(checked.budgets.size),
            )
            finished = link_and_save(
                checked, chosen, compiled, built, directory, versions, request, report, baseline
            )
        shutil.rmtree(state)
    report.done(f"{directory}")
    return finished


def compile_file(model_file: str, *, output: Path | str, **options: Unpack[CompileOptions]) -> Artifact:
    """`compile` with model and data from a model file, `model.py` or `model.py:BUILDER`; its stem names the model.

    Options and `output` are checked before the model is built, which may take long. Raises as `compile`.
    """
    path, builder = split_model(model_file)
    name = c_name(path.stem)
    check_options(name, Settings(**options))
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
        name=name,
        train_data=data["train_data"],
        calibration_data=data["calibration_data"],
        val_data=data["val_data"],
        evaluate=loaded.evaluate,
        **options,
    )


class _Reporter:
    """Tells the caller's callback which stage begins."""

    def __init__(self, callback: Report | None) -> None:
        self._callback = callback

    def __call__(self, stage: str, note: str, search: SearchState | None = None) -> None:
        if self._callback is not None:
            self._callback(Progress(stage, STAGES.index(stage), len(STAGES), note, search=search))

    def done(self, note: str) -> None:
        if self._callback is not None:
            self._callback(Progress("done", len(STAGES), len(STAGES), note))


def _timings(options: Options, versions: dict[str, str], folder: Path) -> KernelCache | None:
    """Where tuning keeps its times; None where kernels are chosen by rule."""
    if options.settings.tune_time_s == 0:
        return None
    device = require_clock(options.device, options.profile.name)
    context = kernel_context(options.profile, device, versions, options.settings.threads)
    return KernelCache(folder, {**context, "timed_as": TIMED_AS})


def _hash(
    options: Options,
    policy: Policy | None,
    canonical: GraphModule,
    samples: Samples,
    judges: Judges,
    train_data: Dataset[Any] | None,
    example_inputs: tuple[Tensor, ...],
    versions: dict[str, str],
) -> str:
    val_data, evaluate = judges.val_data, judges.evaluate
    is_read = policy is None or options.recipe is not None  # by a search, by training
    taught = train_data if is_read else None
    settings = {
        **hashed_settings(options.settings),
        "profile": asdict(options.profile),
        "policy": "searched" if policy is None else policy.to_json(),
        "name": options.name,
        "formats": options.formats,
        "device": options.device.uri if options.device else None,
        "table": None if options.table is None else asdict(options.table.provenance),
        "source": samples.source,
        "val_length": None if val_data is None else dataset_length(val_data, "val_data"),
        "train_length": None if taught is None else dataset_length(taught, "train_data"),
        "evaluate": None if evaluate is None else getattr(evaluate, "__qualname__", "callable"),
        "versions": versions,
    }
    # All of a large test set would take longer to read than the rest of a resumed run: some of it stands for it.
    named = {"val_data": val_data, "train_data": taught}
    scored = [
        part
        for name, data in named.items()
        if data is not None
        for part in probe_inputs(data, name, example_inputs)
    ]
    # Synthetic inputs follow from the model, the example inputs and the seed, and take seconds to make.
    calibrated = [part for batch in samples.given for part in batch] or example_inputs
    return hash_request(canonical, [*calibrated, *scored], settings)


def _has_more_to_search(finished: Artifact, settings: Settings) -> bool:
    """Whether Ctrl-C or a shorter time budget ended the search, whose trials the artefact holds."""
    search = finished.manifest.search
    is_kept = (finished.directory / STUDY).exists()
    return search is not None and is_kept and is_cut_short(search, settings.time_budget_s)


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
