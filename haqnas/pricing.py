"""Pricing: the latency of any choice of bits, from the measured kernels of the network's uniform programs.

A network is lowered once for each (weight bits, activation bits) that may be chosen. A mixed policy runs, for each
layer, the calls that the layer has in the program of its bits, and besides them calls of no layer: those that every
program has, and conversions to fewer bits of a value that others read at more. Its latency is their sum, times what
end-to-end runs say of sums (`NetworkModel`). docs/design.md has the errors of this.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from torch import Tensor
from torch.fx import GraphModule

from haqnas.artifact import run_reference
from haqnas.codegen.lower import lower
from haqnas.codegen.program import Program
from haqnas.devices.kernel_times import Kernel, KernelTime, kernels_of
from haqnas.graph.layers import list_layers
from haqnas.hardware import HardwareProfile
from haqnas.measure import Array, Subject, whole_kernel
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate_own
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy


@dataclass(frozen=True, slots=True)
class Uniform:
    """A network at one choice of bits for all layers."""

    spec: QuantSpec
    graph: GraphModule  # of integers
    program: Program


@dataclass(frozen=True, slots=True)
class Cost:
    """Of some calls: seconds or instructions in all, and how many they are."""

    amount: float = 0.0
    calls: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.amount + other.amount, self.calls + other.calls)


@dataclass(frozen=True, slots=True)
class ProgramTime:
    """Of a program: what it takes as a whole, and what its kernels cost."""

    whole: float
    kernels: Cost


@dataclass(frozen=True, slots=True)
class Conversion:
    """A value turned to fewer bits for some layers: there where one of them reads so many bits."""

    cost: Cost
    readers: frozenset[str]
    act_bits: int


@dataclass(frozen=True, slots=True)
class NetworkModel:
    """End to end = scale * sum of kernels + per_call * calls. `error`: mean |relative error| of the runs it fits."""

    scale: float
    per_call: float
    error: float
    num_programs: int

    def total(self, cost: Cost) -> float:
        """Of a network whose kernels cost so much."""
        return self.scale * cost.amount + self.per_call * cost.calls


SUM = NetworkModel(1.0, 0.0, 0.0, 0)  # where no program ran end to end


@dataclass(frozen=True, slots=True)
class LayerPrices:
    """What each layer costs at each of its bits; `glue` is what belongs to no layer, by node of the canonical graph."""

    layers: Mapping[str, Mapping[QuantSpec, Cost]]
    conversions: tuple[Conversion, ...]
    glue: Mapping[str, Cost]

    def price(self, policy: Policy, model: NetworkModel) -> float:
        """The latency of a policy; raises KeyError for a layer at bits that were not measured."""
        cost = sum(self.glue.values(), Cost())
        for name, by_spec in self.layers.items():
            cost += by_spec[policy.spec_of(name)]
        for conversion in self.conversions:
            if any(policy.spec_of(name).act_bits == conversion.act_bits for name in conversion.readers):
                cost += conversion.cost
        return model.total(cost)


def lower_uniform(
    canonical: GraphModule,
    batches: Sequence[tuple[Tensor, ...]],
    profile: HardwareProfile,
    spec: QuantSpec,
    name: str,
) -> Uniform:
    """The network at `spec`, calibrated on `batches`. Raises UnsupportedModelError."""
    graph = integerize(calibrate_own(quantize(canonical, Policy(spec)), batches))
    return Uniform(spec, graph, lower(graph, profile, name))


def subject_of(label: str, uniform: Uniform) -> Subject:
    """A uniform program to be measured, checked against its integer graph."""

    def expected(inputs: Sequence[Array]) -> Sequence[Array]:
        return run_reference(uniform.graph, inputs, uniform.program.inputs)

    return Subject(label, uniform.program, expected)


def program_cost(program: Program, times: Mapping[Kernel, KernelTime]) -> Cost:
    """The sum of a program's kernels; raises KeyError for one that was not measured."""
    kernels = kernels_of(program)
    return Cost(sum(times[kernel].amount for kernel in kernels), len(kernels))


def program_times(
    programs: Iterable[tuple[str, Program]], times: Mapping[Kernel, KernelTime]
) -> dict[str, ProgramTime]:
    """By label, those programs that were run as a whole and whose kernels all have a time; equal ones once."""
    found: dict[Kernel, tuple[str, ProgramTime]] = {}
    for label, program in programs:
        whole = whole_kernel(program)
        if whole in times and all(kernel in times for kernel in kernels_of(program)):
            found.setdefault(whole, (label, ProgramTime(times[whole].amount, program_cost(program, times))))
    return dict(found.values())


def fit_model(runs: Collection[ProgramTime]) -> NetworkModel:
    """What end-to-end runs say of sums of kernels: least relative squares, no term below zero."""
    if not runs:
        return SUM
    wholes = np.array([run.whole for run in runs])
    sums = np.array([[run.kernels.amount, run.kernels.calls] for run in runs], np.float64)
    (scale, per_call), _ = nnls(sums / wholes[:, None], np.ones(len(wholes)))
    error = float(np.mean(np.abs(sums @ [scale, per_call] / wholes - 1)))
    return NetworkModel(float(scale), float(per_call), error, len(runs))


def layer_prices(
    canonical: GraphModule, uniforms: Sequence[Uniform], times: Mapping[Kernel, KernelTime]
) -> LayerPrices:
    """Prices of the layers of a network from its measured `uniforms`; raises KeyError for a missing time.

    What belongs to no layer is that of the first, so give the widest bits first.
    """
    names = frozenset(layer.name for layer in list_layers(canonical))
    owned = [_costs_by_owner(uniform.program, times) for uniform in uniforms]
    layers = {
        name: {uniform.spec: costs.get(name, Cost()) for uniform, costs in zip(uniforms, owned, strict=True)}
        for name in names
    }
    conversions: dict[str, Conversion] = {}
    for uniform, costs in zip(uniforms, owned, strict=True):
        readers = _readers(uniform.graph, names)
        for owner in costs.keys() - names - owned[0].keys():
            if readers.get(owner):
                conversions[owner] = Conversion(costs[owner], readers[owner], uniform.spec.act_bits)
    glue = {owner: cost for owner, cost in owned[0].items() if owner not in names}
    return LayerPrices(layers, tuple(conversions.values()), glue)


def _costs_by_owner(program: Program, times: Mapping[Kernel, KernelTime]) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    for call, kernel in zip(program.calls, kernels_of(program), strict=True):
        costs[call.layer] = costs.get(call.layer, Cost()) + Cost(times[kernel].amount, 1)
    return costs


def _readers(graph: GraphModule, names: frozenset[str]) -> dict[str, frozenset[str]]:
    """Of each value, by the name that its calls go under, the layers that read it."""
    found: dict[str, frozenset[str]] = {}
    for node in graph.graph.nodes:
        layers = {str(user.meta.get("layer", "")) for user in node.users}
        owner = str(node.meta.get("layer", ""))
        found[owner] = found.get(owner, frozenset()) | (layers & names)
    return found
