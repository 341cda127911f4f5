"""The products of a compilation: link them, check them on the device, and save the artefact that holds them."""

import shutil
from dataclasses import replace
from pathlib import Path

from torch.fx import GraphModule

from haqnas import artifact as artefacts
from haqnas.artifact import Artifact
from haqnas.bit_stage import Chosen
from haqnas.codegen.budget import CHOICE
from haqnas.codegen.emit import emit_sources
from haqnas.codegen.layer_table import find_table
from haqnas.codegen.link import (
    is_first_use,
    link_archive,
    link_executable,
    link_tvm_library,
    link_tvm_object,
)
from haqnas.codegen.selftest import make_self_test, self_test_inputs
from haqnas.constraints import check_constraints
from haqnas.devices.latency import TimingPlan, measure_latency
from haqnas.devices.records import run_records
from haqnas.errors import VerificationError
from haqnas.latency_table import predicted_latency
from haqnas.layer_rows import layer_rows
from haqnas.manifest import Baseline, Manifest, Sizes
from haqnas.options import Options
from haqnas.readback import read_layers
from haqnas.space.architecture import Architecture
from haqnas.stages import Compiled, Report
from haqnas.train.sensitivity_file import encode_sensitivity

BENCH_RUNS = 30  # in passing: `haqnas bench` measures until it is sure
RUN_TIMEOUT_S = 1800.0  # of the golden inputs: a large network under an emulator


def link_and_save(
    options: Options,
    chosen: Chosen,
    compiled: Compiled,
    work: Path,
    directory: Path,
    versions: dict[str, str],
    request: str,
    report: Report,
    baseline: Baseline | None,
) -> Artifact:
    """Link in `work`, run the golden inputs on the device, then make `directory` the artefact.

    Raises DeviceError, VerificationError where the binary differs from the integer graph.
    """
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
    manifest = _describe(options, compiled, staged, versions, request)
    _require_bits(options, manifest)
    report("check", options.device.uri if options.device else "no device here can run the binary")
    if options.device is not None and "exe" in options.formats:
        executable = staged / "bin" / options.name
        given = run_records(
            executable, compiled.golden_inputs, compiled.program.outputs, options.device, RUN_TIMEOUT_S
        )
        artefacts.compare_outputs(
            given, compiled.golden_outputs, manifest, "the executable", "the integer graph"
        )
        if options.device.latency_kind == "measured":
            latency = measure_latency(executable, options.device, TimingPlan(runs=BENCH_RUNS), RUN_TIMEOUT_S)
            manifest = replace(manifest, latency=latency)
    if manifest.latency is None and options.table is not None:
        manifest = replace(manifest, latency=predicted_latency(options.table, compiled.program))
    is_whole = baseline is not None and baseline.shipped == "uniform"
    architecture = None if is_whole else chosen.architecture
    manifest = replace(
        manifest,
        baseline=baseline,
        search=chosen.search,
        recipe=chosen.recipe,
        architecture=None if architecture is None else dict(architecture.choices),
        operators=dict(chosen.operators) if architecture is not None and chosen.operators else None,
    )
    constraints = check_constraints(options.budgets, chosen, manifest, compiled.policy, compiled.program)
    report("save", str(directory))
    _stage_data(chosen, compiled, architecture, work, staged)
    return artefacts.save(staged, directory, replace(manifest, constraints=constraints))


def _require_bits(options: Options, manifest: Manifest) -> None:
    """Emitted bits are simulated bits, always; with strict bits there is no other difference either."""
    for row in manifest.layers:
        if row.emitted != row.simulated:
            raise VerificationError(
                f"layer {row.name!r}: {row.simulated} was simulated, but the binary holds "
                f"{row.emitted or 'other weights'}; report it: this is a mistake of haqnas"
            )
    different = [(row.name, text) for row in manifest.layers for text in row.differences]
    if options.settings.strict_bits and different:
        listed = "\n".join(f"  {name}: {text}" for name, text in different)
        raise VerificationError(
            "strict bits: the binary does something else than the bits that were requested say:\n"
            f"{listed}\n  Choose bits that have a kernel on {options.profile.name}, or leave strict bits out"
        )


def _link(options: Options, compiled: Compiled, sources: Path, staged: Path) -> None:
    program, name = compiled.program, options.name
    made_up = self_test_inputs(program)
    expected = artefacts.run_reference(compiled.graph, made_up, program.inputs)
    emit_sources(program, sources, make_self_test(expected, program.is_exact, _steps(compiled.graph)))
    kernels, is_threaded = compiled.kernels, options.settings.threads > 1
    if "exe" in options.formats:
        link_executable(
            options.linker, name, kernels, sources, staged / "bin" / name, is_threaded=is_threaded
        )
    if "a" in options.formats:
        target = staged / "lib" / f"lib{name}.a"
        link_archive(options.linker, name, kernels, sources, target, is_threaded=is_threaded)
    if "so" in options.formats or "tvm" in options.formats:
        target = staged / "lib" / f"lib{name}.so"
        link_tvm_library(options.linker, name, kernels, sources, target, is_threaded=is_threaded)
    if "tvm" in options.formats:
        target = staged / "lib" / f"{name}_tvm.o"
        link_tvm_object(options.linker, name, kernels, sources, target, is_threaded=is_threaded)
    if "layers" in options.formats:
        target = staged / "bin" / f"{name}-layers"
        link_executable(
            options.linker, name, kernels, sources, target, is_marked=True, is_threaded=is_threaded
        )
    (staged / "include").mkdir(parents=True)
    shutil.copy(sources / f"{name}.h", staged / "include")


def _steps(graph: GraphModule) -> tuple[float, ...]:
    return tuple(float(step) for step in graph.meta["output_steps"])


def _stage_data(
    chosen: Chosen, compiled: Compiled, architecture: Architecture | None, work: Path, staged: Path
) -> None:
    """What is no binary: golden data, the reference, the policy, the architecture."""
    for path, arrays in (
        (artefacts.GOLDEN_INPUTS, compiled.golden_inputs),
        (artefacts.GOLDEN_OUTPUTS, compiled.golden_outputs),
    ):
        named = {str(index): values for index, values in enumerate(arrays)}
        artefacts.write_atomically(staged / path, artefacts.encode_arrays(named))
    for path in (artefacts.GRAPH, artefacts.CONSTANTS):
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / path, staged / path)
    shutil.copy(work / CHOICE, staged / artefacts.KERNEL_CHOICE)
    if chosen.sensitivity is not None:
        artefacts.write_atomically(staged / artefacts.SENSITIVITY, encode_sensitivity(chosen.sensitivity))
    if chosen.study is not None:
        shutil.copy(chosen.study, staged / artefacts.STUDY)
    artefacts.write_atomically(staged / artefacts.POLICY, compiled.policy.to_json().encode())
    if architecture is not None:
        artefacts.write_atomically(
            staged / artefacts.ARCHITECTURE, architecture.to_json(chosen.operators).encode()
        )


def _describe(
    options: Options,
    compiled: Compiled,
    staged: Path,
    versions: dict[str, str],
    request: str,
) -> Manifest:
    program = compiled.program
    executable = staged / "bin" / options.name
    data = executable.read_bytes() if executable.exists() else None
    (binary, *_) = sorted(path for folder in ("bin", "lib") for path in (staged / folder).glob("*"))
    found = read_layers(binary.read_bytes(), program, binary.name)
    sizes = Sizes(
        executable_bytes=len(data) if data else None,
        constants_bytes=len(program.constants),
        packed_weight_bytes=program.packed_weight_bytes,
        workspace_bytes=program.workspace_bytes,
        constants_offset_bytes=find_table(data, options.name, executable.name).constants_offset_bytes
        if data
        else None,
    )
    return Manifest(
        name=options.name,
        profile=options.profile,
        inputs=program.inputs,
        outputs=program.outputs,
        output_steps=_steps(compiled.graph),
        is_exact=program.is_exact,
        layers=layer_rows(compiled.policy, program, compiled.graph, compiled.canonical, found),
        accuracy=compiled.accuracy,
        latency=None,
        sizes=sizes,
        formats=options.formats,
        versions=versions,
        seed=options.settings.seed,
        threads=options.settings.threads,
        request_sha256=request,
        files={},
        training=compiled.training,
    )
