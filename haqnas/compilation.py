"""One compilation: what is compiled, what is asked for on one target, and all stages between; each can be resumed."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas.artifact import STUDY, Artifact, check_files, load
from haqnas.baseline import build_to_ship, is_uniform
from haqnas.bit_search import is_cut_short
from haqnas.bit_stage import Chosen, choose_bits, given_policy, needed_architectures, read_times
from haqnas.devices.cache import KernelCache, kernel_context
from haqnas.errors import HaqnasError
from haqnas.evaluate import Judges, dataset_length, probe_inputs
from haqnas.graph.choices import describe_choices, take_branches
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import AUTO, Options, cache_folder_of, search_time_s
from haqnas.products import link_and_save
from haqnas.progress import Progress, Report
from haqnas.resume import hash_request, stage_folder
from haqnas.search.state import SearchState
from haqnas.search_data import Given
from haqnas.settings import Settings, hashed_settings
from haqnas.space.architecture import ArchitectureSpace
from haqnas.space.policy import Policy
from haqnas.stages import Compiled, Samples, calibration_samples, run_stages
from haqnas.stages import Report as Tell
from haqnas.train.recipe import Recipe
from haqnas.train.seeds import seeded
from haqnas.train_stage import check_train_data
from haqnas.tune import TIMED_AS, require_clock
from haqnas.versions import read_versions

STAGES = ("trace", "bits", "quantize", "score", "build", "compare", "link", "check", "save")


class Reporter:
    """Tells the caller's callback which stage begins; of several targets, of which one."""

    def __init__(
        self, callback: Report | None, target: str | None = None, count: int = 1, number: int = 0
    ) -> None:
        self._callback, self._target = callback, target if count > 1 else None
        self._before, self._total = number * len(STAGES), count * len(STAGES)

    def __call__(self, stage: str, note: str, search: SearchState | None = None) -> None:
        if self._callback is not None:
            index = self._before + STAGES.index(stage)
            self._callback(Progress(stage, index, self._total, note, search=search, target=self._target))

    def done(self, note: str) -> None:
        if self._callback is not None:
            self._callback(Progress("done", self._total, self._total, note))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compiled, whatever the target: the model, its canonical graph, and its data.

    `branching`: the canonical graph with all branches of each `haqnas.nn.Choice`, where they are searched.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    canonical: GraphModule
    branching: GraphModule
    samples: Samples
    train_data: Dataset[Any] | None
    judges: Judges


def read_subject(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    data: Mapping[str, Dataset[Any] | None],
    judges: Judges,
    settings: Settings,
    report: Reporter,
) -> Subject:
    """Trace the model and read what is calibrated on; raises UnsupportedModelError, ConfigurationError."""
    has_branches, seed = settings.architecture == AUTO, settings.seed
    report("trace", "" if has_branches else describe_choices(model))
    branching = normalise(trace(model, example_inputs, has_branches))
    with seeded(seed, 0):  # training data may change from read to read
        samples = calibration_samples(model, example_inputs, data, seed)
    canonical = take_branches(branching)
    return Subject(model, example_inputs, canonical, branching, samples, data["train_data"], judges)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done for one target; `earlier` is what this very request made before, where it is whole."""

    options: Options
    policy: Policy | None  # None: to be searched
    lessons: Dataset[Any] | None
    versions: dict[str, str]
    request: str
    directory: Path
    state: Path
    earlier: Artifact | None

    @property
    def finished(self) -> Artifact | None:
        """The earlier artefact, where nothing is left to do."""
        has_more = self.earlier is not None and _has_more_to_search(self.earlier, self.options)
        return None if has_more else self.earlier

    def check_ready(self) -> None:
        """Raise what the work would end with, such as a board that cannot be reached, before it begins."""
        if self.finished is None:
            if self.options.device is not None and self.options.settings.device is not None:
                self.options.device.fingerprint()
            read_times(self.options, cache_folder_of(self.options.settings), self.versions)


def plan_task(subject: Subject, options: Options, directory: Path, state: Path) -> Task:
    """Raises ConfigurationError for options and data that do not fit the model."""
    policy, versions = given_policy(options, subject.branching), read_versions()
    with seeded(options.settings.seed, 0):
        lessons = check_train_data(options, subject.train_data, subject.example_inputs)
        request = _hash(subject, options, policy, versions)
    earlier = None if options.settings.fresh else _find_finished(directory, request)
    return Task(options, policy, lessons, versions, request, directory, state, earlier)


def needed_by(subject: Subject, task: Task, report: Reporter) -> ArchitectureSpace | None:
    """The architectures that a task trains shared weights for; None where it trains none. Raises as `run_task`."""
    settings = task.options.settings
    if task.finished is not None:
        return None
    given = _given(subject, settings)
    return needed_architectures(
        *(task.options, given, cache_folder_of(settings), task.versions), partial(report, "bits")
    )


def run_task(
    subject: Subject, task: Task, report: Reporter, others: Sequence[ArchitectureSpace] = ()
) -> Artifact:
    """All stages for one target; at once where they were done before. Shared weights are to serve `others`, too."""
    if task.finished is not None:
        shutil.rmtree(task.state)
        return task.finished
    checked, settings, policy = task.options, task.options.settings, task.policy
    canonical, directory, versions = subject.canonical, task.directory, task.versions
    cache_folder = cache_folder_of(settings)
    work = stage_folder(task.state, task.request, settings.fresh)
    if task.earlier is not None and not (work / STUDY).exists():
        shutil.copy(directory / STUDY, work / STUDY)
    report("bits", "to be searched" if policy is None else str(policy.default))
    data = _given(subject, settings)
    batches, source = data.batches, data.source
    chosen = choose_bits(
        *(checked, policy, data, work, cache_folder, versions, partial(report, "bits"), others)
    )
    asked = checked
    if settings.qat_recipe == AUTO and task.lessons is not None:
        from haqnas.recipe_stage import choose_recipe  # Optuna takes a second to import

        report("quantize", "the recipe of fine-tuning is to be searched")
        chosen, recipe = choose_recipe(checked, chosen, data, task.lessons, work, partial(report, "quantize"))
        asked = replace(checked, recipe=recipe)
    results = _results_folder(work, chosen, asked.recipe)
    timings = _timings(checked, versions, cache_folder)

    def make(policy: Policy, folder: Path, tell: Tell, float_score: float | None) -> Compiled:
        is_asked = folder == results  # the uniform int8 to compare with is the whole network, untrained
        network = chosen.network if is_asked and chosen.network is not None else canonical
        return run_stages(
            *(asked, policy, subject.model, network, canonical, batches, source),
            *(task.lessons if is_asked else None, subject.judges, folder, tell, timings, float_score),
        )

    compiled, built, baseline = build_to_ship(
        *(checked, chosen.policy, chosen.network is None and is_uniform(chosen.policy, canonical)),
        *(make, results, report),
        is_chosen=chosen.is_for_speed(checked.budgets.size),
    )
    finished = link_and_save(
        *(checked, chosen, compiled, built, directory, versions, task.request, report, baseline)
    )
    shutil.rmtree(task.state)
    return finished


def _given(subject: Subject, settings: Settings) -> Given:
    samples = subject.samples
    return Given(
        *(subject.model, subject.canonical, subject.example_inputs, samples.read(), samples.source),
        *(subject.train_data, subject.judges.evaluate),
        ptq=settings.ptq,
        branching=subject.branching,
    )


def _timings(options: Options, versions: dict[str, str], folder: Path) -> KernelCache | None:
    """Where tuning keeps its times; None where kernels are chosen by rule."""
    if options.settings.tune_time_s == 0:
        return None
    device = require_clock(options.device, options.profile.name)
    context = kernel_context(options.profile, device, versions, options.settings.threads)
    return KernelCache(folder, {**context, "timed_as": TIMED_AS})


def _hash(subject: Subject, options: Options, policy: Policy | None, versions: Mapping[str, str]) -> str:
    """Of all that is asked for, so of all that an artefact follows from."""
    judges, samples, train_data = subject.judges, subject.samples, subject.train_data
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
        "versions": dict(versions),
    }
    # All of a large test set would take longer to read than the rest of a resumed run: some of it stands for it.
    named = {"val_data": val_data, "train_data": taught}
    scored = [
        part
        for name, data in named.items()
        if data is not None
        for part in probe_inputs(data, name, subject.example_inputs)
    ]
    # Synthetic inputs follow from the model, the example inputs and the seed, and take seconds to make.
    calibrated = [part for batch in samples.given for part in batch] or subject.example_inputs
    return hash_request(subject.branching, [*calibrated, *scored], settings)


def _results_folder(work: Path, chosen: Chosen, recipe: Recipe | None) -> Path:
    """Where stages keep what they make of these choices: a search that goes on may end with others."""
    architecture = None if chosen.architecture is None else chosen.architecture.to_json()
    made_of = repr((chosen.policy.to_json(), architecture, recipe))
    folder = work / hashlib.sha256(made_of.encode()).hexdigest()[:12]
    folder.mkdir(exist_ok=True)
    return folder


def _has_more_to_search(finished: Artifact, options: Options) -> bool:
    """Whether Ctrl-C or a shorter time budget ended a search, whose trials the artefact holds."""
    records = (finished.manifest.search, finished.manifest.recipe)
    is_kept = (finished.directory / STUDY).exists()
    time_s = search_time_s(options)
    return is_kept and any(record is not None and is_cut_short(record, time_s) for record in records)


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
