"""Never slower: a build with other bits than 8 is compared with the uniform int8 build of the same network."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter
from torch.fx import GraphModule

from haqnas import artifact as artefacts
from haqnas.codegen.emit import emit_sources
from haqnas.codegen.link import link_executable
from haqnas.codegen.selftest import make_self_test, self_test_inputs
from haqnas.devices.comparison import Comparison, compare_latency, compare_predictions
from haqnas.devices.latency import TimingPlan
from haqnas.graph.layers import list_layers
from haqnas.latency_table import predicted_latency
from haqnas.manifest import Baseline, Build
from haqnas.options import Options
from haqnas.quantspec import QuantSpec
from haqnas.space.policy import Policy
from haqnas.stages import Compiled, Report

UNIFORM = Policy(QuantSpec(8, 8))
PLAN = TimingPlan(limit_s=5.0)  # its least rounds take 4 s; `haqnas bench --against` goes on until it is sure
RUN_TIMEOUT_S = 1800.0
_FILE = "baseline.json"


def is_uniform(policy: Policy, canonical: GraphModule) -> bool:
    """Whether all layers have 8 bits."""
    return all(policy.spec_of(layer.name) == UNIFORM.default for layer in list_layers(canonical))


Make: TypeAlias = Callable[[Policy, Path, Report, float | None], Compiled]


def build_to_ship(
    options: Options,
    policy: Policy,
    is_int8: bool,
    make: Make,
    work: Path,
    report: Report,
    is_chosen: bool,
) -> tuple[Compiled, Path, Baseline | None]:
    """The build that ships, the folder of its stages, and how the requested one stands against uniform int8.

    `make(policy, folder, report, score of the float model where it is known)` builds; `is_int8`: the requested build is
    the uniform one. None where there is nothing to compare. Raises as `make` and `compare_with_uniform`.
    """
    requested = make(policy, work, report, None)
    if not options.settings.compare or is_int8:
        report("compare", "not wanted" if not options.settings.compare else "nothing: all layers have 8 bits")
        return requested, work, None
    folder = work / "uniform"
    folder.mkdir(exist_ok=True)
    report("compare", "building uniform int8")
    uniform = make(
        UNIFORM,
        folder,
        lambda stage, _: report("compare", f"uniform int8: {stage}"),
        requested.accuracy.float_model,
    )
    report(
        "compare", f"with uniform int8, {options.device.uri if options.device else 'as the profile predicts'}"
    )
    baseline = compare_with_uniform(options, requested, uniform, work, is_chosen)
    return (uniform, folder, baseline) if baseline.shipped == "uniform" else (requested, work, baseline)


def compare_with_uniform(
    options: Options, requested: Compiled, uniform: Compiled, work: Path, is_chosen: bool
) -> Baseline:
    """How `requested` stands against `uniform`; kept in `work`, so that a resumed run measures nothing again.

    The two take turns on the device, or are counted where it is emulated; without a device the profile's table
    predicts. `is_chosen`: haqnas chose the bits, so where they do not win the uniform build ships. Raises DeviceError.
    """
    path, adapter = work / _FILE, TypeAdapter(Baseline)
    if path.exists():
        return adapter.validate_json(path.read_bytes())
    comparison = _compare(options, requested, uniform, work / "compared")
    wins = comparison is not None and comparison.high < 1.0
    baseline = Baseline(
        comparison=comparison,
        requested=_build(requested),
        uniform=_build(uniform),
        is_chosen=is_chosen,
        shipped="uniform" if is_chosen and not wins else "requested",
    )
    artefacts.write_atomically(path, adapter.dump_json(baseline))
    return baseline


def _compare(options: Options, requested: Compiled, uniform: Compiled, work: Path) -> Comparison | None:
    """None where there is neither a device nor a table."""
    if options.device is not None:
        executables = [
            _link(options, build, work / name)
            for name, build in (("requested", requested), ("uniform", uniform))
        ]
        threads = options.settings.threads
        return compare_latency(
            executables[0], executables[1], options.device, PLAN, RUN_TIMEOUT_S, (threads, threads)
        )
    if options.table is None:
        return None
    latencies = [predicted_latency(options.table, build.program) for build in (requested, uniform)]
    return compare_predictions(latencies[0], latencies[1]) if latencies[0] and latencies[1] else None


def _link(options: Options, compiled: Compiled, folder: Path) -> Path:
    program = compiled.program
    expected = artefacts.run_reference(compiled.graph, self_test_inputs(program), program.inputs)
    steps = tuple(float(step) for step in compiled.graph.meta["output_steps"])
    emit_sources(program, folder, make_self_test(expected, program.is_exact, steps))
    is_threaded = options.settings.threads > 1
    output = folder / options.name
    return link_executable(
        options.linker, options.name, compiled.kernels, folder, output, is_threaded=is_threaded
    )


def _build(compiled: Compiled) -> Build:
    bits = {
        layer.name: f"w{layer.weight_bits}a{layer.act_bits}"
        for layer in compiled.program.layers
        if layer.packing is not None
    }
    return Build(compiled.program.packed_weight_bytes, compiled.accuracy, bits)
