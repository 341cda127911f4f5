"""The stages between the model and the linker: quantize, score, lower, build. Their results are kept for a resume."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import Dataset

from haqnas import artifact as artefacts
from haqnas.codegen.budget import NONE_PREFERRED, lower_and_build
from haqnas.codegen.program import Program
from haqnas.devices.cache import KernelCache
from haqnas.devices.records import RawArray, quantize_inputs
from haqnas.evaluate import Accuracy, Batches, Judges, sample_batches, score_accuracy
from haqnas.kernels.row import Geometry
from haqnas.manifest import Training
from haqnas.options import Options
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.serialize import load_graph, save_graph
from haqnas.rewrite.synthetic import synthetic_batches
from haqnas.space.policy import Policy
from haqnas.train_stage import quantized_graph, read_training
from haqnas.tune import Choices, Request, require_clock, tune

SYNTHETIC_SAMPLES = 64
GOLDEN_RECORDS = 4
GOLDEN_MACS = 200_000_000  # above this, one record: an emulator takes seconds for each

Report: TypeAlias = Callable[[str, str], None]  # a stage begins; a note on it


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the stages before linking made."""

    policy: Policy
    canonical: GraphModule
    graph: GraphModule  # of integers
    accuracy: Accuracy
    program: Program
    kernels: Path
    golden_inputs: tuple[RawArray, ...]
    golden_outputs: tuple[RawArray, ...]
    training: Training | None


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs to calibrate on: `given` ones, else what `make` makes up."""

    source: str  # "calibration_data", "train_data", "synthetic"
    given: Batches
    make: Callable[[], Batches] | None

    def read(self) -> Batches:
        """Takes seconds where inputs are made up; the same inputs at every call."""
        return self.make() if self.make is not None else self.given


def calibration_samples(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    data: Mapping[str, Dataset[Any] | None],
    seed: int,
) -> Samples:
    """Samples of the first of `data` that is there; raises ConfigurationError for data that does not fit."""
    rng = np.random.default_rng(seed)
    for source, dataset in data.items():
        if dataset is not None:
            batches = sample_batches(dataset, source, example_inputs, rng)
            return Samples(source, batches, None)

    @cache
    def make() -> Batches:
        return synthetic_batches(model, example_inputs, rng, SYNTHETIC_SAMPLES)

    return Samples("synthetic", (), make)


def run_stages(
    options: Options,
    policy: Policy,
    model: nn.Module,
    canonical: GraphModule,
    teacher: GraphModule,
    batches: Batches,
    source: str,
    train_data: Dataset[Any] | None,
    judges: Judges,
    work: Path,
    report: Report,
    timings: KernelCache | None,
    float_score: float | None = None,
) -> Compiled:
    """All stages from quantization to the kernels' object file; finished ones are read from `work`.

    `batches` of `source` are what is calibrated on, `train_data` what is trained on, None for no training. `teacher` is
    the canonical graph of `model`, which `canonical` may be cut out of;
    `float_score` is that of the float model where it is known.
    Kernels are chosen by measurement where `timings` is given, which keeps what they take. Raises
    UnsupportedModelError, ConfigurationError for data that does not fit, DeviceError while tuning.
    """
    report("quantize", f"{policy.default}, calibrated on {source}")
    note = partial(report, "quantize")
    graph = _kept_graph(
        work,
        lambda: integerize(
            quantized_graph(options, policy, canonical, teacher, batches, train_data, work, note)
        ),
    )
    report("score", "float model and integer graph")
    accuracy = _kept_accuracy(
        work / "accuracy.json", lambda: score_accuracy(model, graph, judges, batches, source, float_score)
    )
    choices = _kept_choices(work / "tuning.json", lambda: _tuned(options, graph, work, report, timings))
    report("build", f"kernels for {options.profile.name}")
    program, kernels = lower_and_build(
        graph, options.profile, options.name, work, threads=options.settings.threads, preferred=choices
    )
    inputs = quantize_inputs([part.numpy() for part in _golden_batch(batches, program)], program.inputs)
    outputs = artefacts.run_reference(graph, inputs, program.inputs)
    return Compiled(
        policy, canonical, graph, accuracy, program, kernels, inputs, outputs, read_training(work)
    )


def _golden_batch(batches: Batches, program: Program) -> tuple[Tensor, ...]:
    num_macs = sum(layer.macs for layer in program.layers)
    num_records = GOLDEN_RECORDS if num_macs <= GOLDEN_MACS else 1
    return tuple(part[:num_records] for part in batches[0])


def _kept_graph(work: Path, make: Callable[[], GraphModule]) -> GraphModule:
    """The integer graph of an earlier run of this request, or a new one, which is kept."""
    graph, constants, places = work / artefacts.GRAPH, work / artefacts.CONSTANTS, work / "places.json"
    if not graph.exists():  # written last, so the others are there
        made = make()
        text, arrays = save_graph(made)
        artefacts.write_atomically(constants, artefacts.encode_arrays(arrays))
        traces = [node.meta.get("stack_trace") for node in made.graph.nodes]
        artefacts.write_atomically(places, json.dumps(traces).encode())
        artefacts.write_atomically(graph, text.encode())
    kept = load_graph(graph.read_text(encoding="utf-8"), artefacts.decode_arrays(constants))
    # A saved graph goes into the artefact, so it holds no paths of this machine; messages name lines of the model.
    for node, trace in zip(kept.graph.nodes, json.loads(places.read_bytes()), strict=True):
        node.meta["stack_trace"] = trace
    return kept


def _tuned(
    options: Options, graph: GraphModule, work: Path, report: Report, timings: KernelCache | None
) -> Choices:
    if timings is None:
        return NONE_PREFERRED
    device = require_clock(options.device, options.profile.name)
    settings = options.settings
    request = Request(
        graph,
        options.profile,
        options.name,
        settings.threads,
        options.linker,
        device,
        settings.tune_time_s,
    )
    report("build", f"tuning on {device.uri}")
    return tune(request, work / "tuning", timings, lambda note: report("build", f"tuning: {note}"))


def _kept_choices(path: Path, make: Callable[[], Choices]) -> Choices:
    infinite = ConfigDict(ser_json_inf_nan="constants")  # bounds of geometries may be
    adapter = TypeAdapter(list[tuple[Geometry, str]], config=infinite)
    if path.exists():
        return dict(adapter.validate_json(path.read_bytes()))
    choices = make()
    artefacts.write_atomically(path, adapter.dump_json(list(choices.items())))
    return choices


def _kept_accuracy(path: Path, make: Callable[[], Accuracy]) -> Accuracy:
    adapter = TypeAdapter(Accuracy)
    if path.exists():
        return adapter.validate_json(path.read_bytes())
    accuracy = make()
    artefacts.write_atomically(path, adapter.dump_json(accuracy))
    return accuracy
