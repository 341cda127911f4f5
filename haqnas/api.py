"""The public calls: `compile` a model into an Artifact, and `load` one. Nothing here prints."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas import artifact as artefacts
from haqnas.artifact import Artifact, load
from haqnas.codegen.emit import emit_sources
from haqnas.codegen.link import (
    Linker,
    choose_linker,
    is_first_use,
    link_archive,
    link_executable,
    link_tvm_library,
)
from haqnas.codegen.lower import lower
from haqnas.codegen.objects import build
from haqnas.codegen.program import Program
from haqnas.codegen.selftest import make_self_test, self_test_inputs
from haqnas.devices.choose import device_for
from haqnas.devices.device import Device
from haqnas.devices.latency import measure_latency
from haqnas.devices.local import read_host_cpu
from haqnas.devices.records import RawArray, quantize_inputs, run_records
from haqnas.errors import ConfigurationError, HaqnasError
from haqnas.evaluate import (
    Accuracy,
    Batches,
    Evaluate,
    dataset_length,
    probe_inputs,
    sample_batches,
    score_accuracy,
)
from haqnas.graph.layers import list_layers
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import HardwareProfile, find_profile
from haqnas.layer_rows import layer_rows
from haqnas.manifest import Manifest, Sizes
from haqnas.quantspec import QuantSpec
from haqnas.resume import hash_request, open_output, read_versions, stage_folder, taught_os_errors
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.rewrite.serialize import load_graph, save_graph
from haqnas.rewrite.synthetic import synthetic_batches
from haqnas.space.policy import Policy

__all__ = ["Artifact", "Progress", "compile", "compile_file", "load"]

FORMATS = ("exe", "a", "so", "tvm")
STAGES = ("trace", "quantize", "score", "lower", "build", "link", "check", "save")
SYNTHETIC_SAMPLES = 64
GOLDEN_RECORDS = 4
GOLDEN_MACS = 200_000_000  # above this, one record: an emulator takes seconds for each
BENCH_RUNS = 30
STEP_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage begins: number `index` of `total`; `index == total` says that all is done."""

    stage: str
    index: int
    total: int
    note: str


@dataclass(frozen=True, slots=True)
class Options:
    """What `compile` was asked for, checked."""

    profile: HardwareProfile
    device: Device | None
    policy: Policy
    linker: Linker
    name: str
    formats: tuple[str, ...]
    seed: int
    cc: str | None


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What the stages before linking made."""

    graph: GraphModule
    accuracy: Accuracy
    program: Program
    kernels: Path
    golden_inputs: tuple[RawArray, ...]
    golden_outputs: tuple[RawArray, ...]


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
    name: str = "model",
    seed: int = 0,
    formats: Sequence[str] = ("exe", "a"),
    cc: str | None = None,
    device: str | None = None,
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Artifact:
    """Quantize `model` and write the artefact for `target` into the directory `output`.

    `example_inputs` have batch 1; data are Datasets of (input without batch dimension, label). Calibration reads
    `calibration_data`, else `train_data`, else synthetic inputs. Accuracy is read on `val_data` by `evaluate(model,
    data)` or top-1, else as agreement with the float model. `bits` is "8", "w4a8", "auto" (8 for now), the path of a
    policy.json, or a Policy. `cc` names another C compiler than zig's, `device` another device than the default.
    The same call again goes on where it stopped, and returns at once where all is done; `fresh` starts anew.

    Raises ConfigurationError, UnsupportedModelError, DeviceError, VerificationError.
    """
    options = _check_options(target, bits, name, formats, cc, device, seed)
    directory = Path(output)
    report = _Reporter(progress)
    with open_output(directory) as state, taught_os_errors(directory):
        report("trace", "")
        canonical = normalise(trace(model, example_inputs))
        options.policy.check_layers([layer.name for layer in list_layers(canonical)])
        batches, source = _calibration_batches(
            canonical, example_inputs, {"calibration_data": calibration_data, "train_data": train_data}, seed
        )
        versions = read_versions()
        request = _hash(options, canonical, batches, source, val_data, example_inputs, evaluate, versions)
        finished = None if fresh else _find_finished(directory, request)
        if finished is None:
            work = stage_folder(state, request, fresh)
            compiled = _run_stages(
                options, model, canonical, batches, source, (val_data, evaluate), work, report
            )
            finished = _link_and_save(
                options, compiled, canonical, work, directory, versions, request, report
            )
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
    formats: Sequence[str] = ("exe", "a"),
    cc: str | None = None,
    device: str | None = None,
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Artifact:
    """`compile` with model and data from a model file, `model.py` or `model.py:BUILDER`; its stem names the model.

    Options and `output` are checked before the model is built, which may take long. Raises as `compile`.
    """
    path, builder = split_model(model_file)
    name = c_name(path.stem)
    _check_options(target, bits, name, formats, cc, device, seed)
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
        name=name,
        seed=seed,
        formats=formats,
        cc=cc,
        device=device,
        fresh=fresh,
        progress=progress,
    )


def split_model(model_file: str) -> tuple[Path, str | None]:
    """Path and builder of `MODEL[:BUILDER]`."""
    path, colon, builder = model_file.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path), builder
    return Path(model_file), None


def c_name(stem: str) -> str:
    """A C identifier that resembles a file's stem."""
    cleaned = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return cleaned if re.match(r"[A-Za-z]", cleaned) else f"model_{cleaned}"


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


# Options ----------------------------------------------------------------------------------------------------


def read_policy(bits: str | Policy) -> Policy:
    """`8`, `w4a8`, `auto`, or the path of a policy.json; raises ConfigurationError."""
    if isinstance(bits, Policy):
        return bits
    path = Path(bits)
    if path.suffix == ".json" or "/" in bits:
        try:
            return Policy.from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"the policy {path} cannot be read: {reason}") from None
    return Policy(QuantSpec.parse("8" if bits == "auto" else bits))


def _check_options(
    target: str | HardwareProfile,
    bits: str | Policy,
    name: str,
    formats: Sequence[str],
    cc: str | None,
    device: str | None,
    seed: int,
) -> Options:
    host = read_host_cpu()
    profile = find_profile(target, host) if isinstance(target, str) else target
    unknown = [chosen for chosen in formats if chosen not in FORMATS]
    if unknown or not formats:
        raise ConfigurationError(
            f"formats are one or more of {', '.join(FORMATS)}, but got {', '.join(formats) or 'none'}"
        )
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConfigurationError(
            f"a name starts with a letter and has letters, digits and '_', but got {name!r}"
        )
    chosen_device = device_for(profile, device, host)
    ordered = tuple(chosen for chosen in FORMATS if chosen in formats)
    linker = choose_linker(profile.triple, cc)
    return Options(profile, chosen_device, read_policy(bits), linker, name, ordered, seed, cc)


def _hash(
    options: Options,
    canonical: GraphModule,
    batches: Batches,
    source: str,
    val_data: Dataset[Any] | None,
    example_inputs: tuple[Tensor, ...],
    evaluate: Evaluate | None,
    versions: dict[str, str],
) -> str:
    settings = {
        "profile": asdict(options.profile),
        "policy": options.policy.to_json(),
        "name": options.name,
        "formats": options.formats,
        "seed": options.seed,
        "cc": options.cc,
        "device": options.device.uri if options.device else None,
        "source": source,
        "val_length": None if val_data is None else dataset_length(val_data, "val_data"),
        "evaluate": None if evaluate is None else getattr(evaluate, "__qualname__", "callable"),
        "versions": versions,
    }
    # All of a large test set would take longer to read than the rest of a resumed run: some of it stands for it.
    scored = () if val_data is None else probe_inputs(val_data, "val_data", example_inputs)
    return hash_request(canonical, batches, scored, settings)


def _find_finished(directory: Path, request: str) -> Artifact | None:
    """The artefact that this very request made before, where it is whole."""
    try:
        found = load(directory)
        if found.manifest.request_sha256 != request:
            return None
        artefacts.check_files(found)
    except HaqnasError:
        return None  # none, incomplete or damaged: compile
    return found


# Stages -----------------------------------------------------------------------------------------------------


def _calibration_batches(
    canonical: GraphModule,
    example_inputs: tuple[Tensor, ...],
    data: Mapping[str, Dataset[Any] | None],
    seed: int,
) -> tuple[Batches, str]:
    """Inputs to calibrate on, and the name of where they come from: the first of `data` that is there."""
    rng = np.random.default_rng(seed)
    for source, dataset in data.items():
        if dataset is not None:
            return sample_batches(dataset, source, example_inputs, rng), source
    return synthetic_batches(canonical, example_inputs, rng, SYNTHETIC_SAMPLES), "synthetic"


def _run_stages(
    options: Options,
    model: nn.Module,
    canonical: GraphModule,
    batches: Batches,
    source: str,
    judged: tuple[Dataset[Any] | None, Evaluate | None],
    work: Path,
    report: _Reporter,
) -> _Compiled:
    report("quantize", f"{options.policy.default}, calibrated on {source}")
    graph = _kept_graph(work, lambda: integerize(calibrate(quantize(canonical, options.policy), batches)))
    report("score", "float model and integer graph")
    accuracy = _kept_accuracy(
        work / "accuracy.json", lambda: score_accuracy(model.eval(), graph, *judged, batches, source)
    )
    report("lower", f"for {options.profile.name}")
    program = lower(graph, options.profile, options.name)
    report("build", f"{len(program.functions)} kernels")
    kernels = work / "kernels.o"
    if not kernels.exists():
        build(program.functions, options.profile, kernels)
    inputs = quantize_inputs([part.numpy() for part in _golden_batch(batches, program)], program.inputs)
    outputs = artefacts.run_reference(graph, inputs, program.inputs)
    return _Compiled(graph, accuracy, program, kernels, inputs, outputs)


def _golden_batch(batches: Batches, program: Program) -> tuple[Tensor, ...]:
    num_macs = sum(layer.macs for layer in program.layers)
    num_records = GOLDEN_RECORDS if num_macs <= GOLDEN_MACS else 1
    return tuple(part[:num_records] for part in batches[0])


def _kept_graph(work: Path, make: Callable[[], GraphModule]) -> GraphModule:
    """The integer graph of an earlier run of this request, or a new one, which is kept."""
    graph, constants = work / artefacts.GRAPH, work / artefacts.CONSTANTS
    if graph.exists():  # written last, so the constants are there
        return load_graph(graph.read_text(encoding="utf-8"), artefacts.decode_arrays(constants))
    text, arrays = save_graph(make())
    artefacts.write_atomically(constants, artefacts.encode_arrays(arrays))
    artefacts.write_atomically(graph, text.encode())
    return load_graph(text, arrays)


def _kept_accuracy(path: Path, make: Callable[[], Accuracy]) -> Accuracy:
    adapter = TypeAdapter(Accuracy)
    if path.exists():
        return adapter.validate_json(path.read_bytes())
    accuracy = make()
    artefacts.write_atomically(path, adapter.dump_json(accuracy))
    return accuracy


# Products ---------------------------------------------------------------------------------------------------


def _link_and_save(
    options: Options,
    compiled: _Compiled,
    canonical: GraphModule,
    work: Path,
    directory: Path,
    versions: dict[str, str],
    request: str,
    report: _Reporter,
) -> Artifact:
    staged = work / "staged"
    if staged.exists():
        shutil.rmtree(staged)
    first_use = (
        "; building a C library for this target first, about 40 s, once"
        if is_first_use(options.linker)
        else ""
    )
    report("link", f"{', '.join(options.formats)}{first_use}")
    _link(options, compiled, work / "sources", staged)
    manifest = _describe(options, compiled, canonical, staged, versions, request)
    report("check", options.device.uri if options.device else "no device here can run the binary")
    if options.device is not None and "exe" in options.formats:
        executable = staged / "bin" / options.name
        given = run_records(
            executable, compiled.golden_inputs, compiled.program.outputs, options.device, STEP_TIMEOUT_S
        )
        artefacts.compare_outputs(
            given, compiled.golden_outputs, manifest, "the executable", "the integer graph"
        )
        if options.device.latency_kind == "measured":
            latency = measure_latency(executable, options.device, BENCH_RUNS, STEP_TIMEOUT_S)
            manifest = replace(manifest, latency=latency)
    report("save", str(directory))
    _stage_data(options, compiled, work, staged)
    return artefacts.save(staged, directory, manifest)


def _link(options: Options, compiled: _Compiled, sources: Path, staged: Path) -> None:
    program, name = compiled.program, options.name
    made_up = self_test_inputs(program)
    expected = artefacts.run_reference(compiled.graph, made_up, program.inputs)
    emit_sources(program, sources, make_self_test(expected, program.is_exact, _steps(compiled.graph)))
    kernels = compiled.kernels
    if "exe" in options.formats:
        link_executable(options.linker, name, kernels, sources, staged / "bin" / name)
    if "a" in options.formats:
        link_archive(options.linker, name, kernels, sources, staged / "lib" / f"lib{name}.a")
    if "so" in options.formats or "tvm" in options.formats:
        link_tvm_library(options.linker, name, kernels, sources, staged / "lib" / f"lib{name}.so")
    (staged / "include").mkdir(parents=True)
    shutil.copy(sources / f"{name}.h", staged / "include")


def _steps(graph: GraphModule) -> tuple[float, ...]:
    return tuple(float(step) for step in graph.meta["output_steps"])


def _stage_data(options: Options, compiled: _Compiled, work: Path, staged: Path) -> None:
    """What is no binary: golden data, the reference, the policy."""
    for path, arrays in (
        (artefacts.GOLDEN_INPUTS, compiled.golden_inputs),
        (artefacts.GOLDEN_OUTPUTS, compiled.golden_outputs),
    ):
        named = {str(index): values for index, values in enumerate(arrays)}
        artefacts.write_atomically(staged / path, artefacts.encode_arrays(named))
    for path in (artefacts.GRAPH, artefacts.CONSTANTS):
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / path, staged / path)
    artefacts.write_atomically(staged / artefacts.POLICY, options.policy.to_json().encode())


def _describe(
    options: Options,
    compiled: _Compiled,
    canonical: GraphModule,
    staged: Path,
    versions: dict[str, str],
    request: str,
) -> Manifest:
    program = compiled.program
    executable = staged / "bin" / options.name
    data = executable.read_bytes() if executable.exists() else None
    offset = data.find(program.constants) if data else -1
    sizes = Sizes(
        executable_bytes=len(data) if data else None,
        constants_bytes=len(program.constants),
        packed_weight_bytes=program.packed_weight_bytes,
        workspace_bytes=program.workspace_bytes,
        constants_offset_bytes=offset if offset >= 0 else None,
    )
    return Manifest(
        name=options.name,
        profile=options.profile,
        inputs=program.inputs,
        outputs=program.outputs,
        output_steps=_steps(compiled.graph),
        is_exact=program.is_exact,
        layers=layer_rows(options.policy, program, compiled.graph, canonical),
        accuracy=compiled.accuracy,
        latency=None,
        sizes=sizes,
        formats=options.formats,
        versions=versions,
        seed=options.seed,
        request_sha256=request,
        files={},
    )
