"""Sensitivity: what the network loses where one layer has fewer bits, for each layer and pair of bits.

The loss is the divergence (KL, nats a sample) of the network's outputs from those of the float network, so no labels
are needed. `measure_divergence` runs the network once per layer and bits. `estimate_loss` needs one backward pass: to
second order the loss is half the mean of (dL/dy * delta y)**2 over samples, where delta y is what the layer's output y
changes by and L is a random projection of the outputs whose gradients have the outputs' Fisher information for their
second moment. That expectation is the sum of (dL/dy * delta y)**2 over all labels, weighted by how likely the float
network finds them: labels of the data would say nothing where a trained network is sure of them.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule, Interpreter, Node

from haqnas.errors import UnsupportedModelError
from haqnas.quantspec import WEIGHT_BITS, QuantSpec, act_range
from haqnas.rewrite.ranges import Histogram, Range, choose_range, merge, observe
from haqnas.rewrite.weight_scales import quantized_weight

SENSITIVITIES = ("gradient", "pairwise", "kl")  # methods: fast, fast with pairs of layers, thorough

Batches = Sequence[tuple[Tensor, ...]]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Predicted loss in nats a sample, by layer and bits; `projected` as `estimate_loss` says, else empty."""

    method: str  # "gradient", "pairwise" (the same with projections) or "kl"
    num_samples: int
    losses: Mapping[str, Mapping[QuantSpec, float]]
    projected: Mapping[str, Mapping[QuantSpec, NDArray[np.float32]]]

    def without_projections(self) -> "Sensitivity":
        """The losses alone, which take a thousandth of the space."""
        return replace(self, method="gradient", projected={})

    def of(self, layer: str, spec: QuantSpec) -> float:
        return self.losses[layer][spec]

    def joined(self, other: "Sensitivity") -> "Sensitivity":
        """With that of other layers, by the same method on the same samples."""
        return replace(
            self, losses={**self.losses, **other.losses}, projected={**self.projected, **other.projected}
        )


Choices = Mapping[str, Sequence[QuantSpec]]  # of a layer, by name


def estimate_loss(
    graph: GraphModule, batches: Batches, choices: Choices, seed: int, note: Note
) -> Sensitivity:
    """The fast way, for a canonical `graph` in eval mode, from inputs in `batches` (n, ...).

    `projected` has, for each layer and bits, the sum of dL/dy * delta y of each sample, (samples,): the loss of a whole
    network is half the mean square of their sum over layers, which tells how the errors of two layers add up. Raises
    UnsupportedModelError where a value is not finite.
    """
    quantizers = _Quantizers(graph, batches)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[tuple[str, QuantSpec], list[Tensor]] = {}
    for index, batch in enumerate(batches):
        note(f"gradients of batch {index + 1} of {len(batches)}")
        calls = _gradients(graph, batch, generator)
        own: dict[tuple[str, QuantSpec], Tensor] = {}
        for call in calls:
            if str(call.node.target) not in choices:
                continue
            for spec, change in _changes(quantizers, call.node, call.inputs, choices):
                key = (str(call.node.target), spec)
                own[key] = own.get(key, torch.zeros(())) + _sum_by_sample(change * call.gradient, batch)
        for key, values in own.items():
            sums.setdefault(key, []).append(values)
    projected = {
        name: {spec: torch.cat(sums[name, spec]).numpy() for spec in specs} for name, specs in choices.items()
    }
    losses = {
        name: {spec: _half_mean_square(values) for spec, values in by_spec.items()}
        for name, by_spec in projected.items()
    }
    return Sensitivity("pairwise", _count(batches), losses, projected)


def measure_divergence(graph: GraphModule, batches: Batches, choices: Choices, note: Note) -> Sensitivity:
    """The thorough way: the divergence where that layer alone is quantized. Raises as `estimate_loss`."""
    quantizers = _Quantizers(graph, batches)
    losses: dict[str, dict[QuantSpec, float]] = {}
    with torch.no_grad():
        references = [_outputs(Interpreter(graph).run(*batch)) for batch in batches]
        for index, (name, specs) in enumerate(choices.items()):
            note(f"{name}, layer {index + 1} of {len(choices)}")
            losses[name] = {}
            for spec in specs:
                runs = [
                    _outputs(_OneQuantized(graph, quantizers, name, spec).run(*batch)) for batch in batches
                ]
                losses[name][spec] = _mean_divergence(references, runs)
    return Sensitivity("kl", _count(batches), losses, {})


def _count(batches: Batches) -> int:
    return sum(int(batch[0].shape[0]) for batch in batches)


def _sum_by_sample(values: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
    """(samples,) of values whose first dimension holds the samples, each perhaps as several rows."""
    return values.reshape(batch[0].shape[0], -1).sum(1)


def _half_mean_square(values: NDArray[np.float32]) -> float:
    return float(0.5 * np.mean(np.square(values, dtype=np.float64)))


# A layer's call with fewer bits ------------------------------------------------------------------------------


class _Quantizers:
    """Ranges of what layers read, and their weights, at any bits; each is found once."""

    def __init__(self, graph: GraphModule, batches: Batches) -> None:
        self.graph = graph
        self._seen = _observed(graph, batches)
        self._ranges: dict[tuple[Node, int], Range] = {}
        self._weights: dict[tuple[str, int], Tensor] = {}

    def read(self, node: Node, inputs: Tensor, act_bits: int) -> Tensor:
        """What the layer that `node` calls reads, rounded."""
        source = node.all_input_nodes[0]
        if (source, act_bits) not in self._ranges:
            self._ranges[source, act_bits] = choose_range(self._seen[source], act_bits)
        return _rounded(inputs, self._ranges[source, act_bits], act_bits)

    def run(self, node: Node, read: Tensor, weight_bits: int) -> Tensor:
        """The output of the layer that `node` calls, with its weights rounded."""
        name = str(node.target)
        layer = self.graph.get_submodule(name)
        if (name, weight_bits) not in self._weights:
            self._weights[name, weight_bits] = quantized_weight(layer, weight_bits)
        output = functional_call(layer, {"weight": self._weights[name, weight_bits]}, (read,))
        assert isinstance(output, Tensor)
        return output


def _rounded(values: Tensor, chosen: Range, act_bits: int) -> Tensor:
    low, high = act_range(act_bits)
    integers = (torch.round(values / chosen.scale) + chosen.zero_point).clamp(low, high)
    return (integers - chosen.zero_point) * chosen.scale


def _without_bias(change: Tensor, layer: nn.Module, spec: QuantSpec) -> Tensor:
    """Calibration takes the mean error of each output channel into the bias, where weights have fewer than 8 bits."""
    if spec.weight_bits == WEIGHT_BITS[-1]:
        return change
    channel = change.ndim - 1 if isinstance(layer, nn.Linear) else 1
    others = [dim for dim in range(change.ndim) if dim != channel]
    return change - change.mean(dim=others, keepdim=True)


def _changes(
    quantizers: _Quantizers, node: Node, inputs: Tensor, choices: Choices
) -> Iterator[tuple[QuantSpec, Tensor]]:
    """How the output of a layer's call changes, for each of its choices."""
    layer = quantizers.graph.get_submodule(str(node.target))
    with torch.no_grad():
        exact = layer(inputs)
        specs = sorted(choices[str(node.target)], key=lambda spec: spec.act_bits)
        for act_bits, equal in itertools.groupby(specs, lambda spec: spec.act_bits):
            read = quantizers.read(node, inputs, act_bits)
            for spec in equal:
                yield (
                    spec,
                    _without_bias(quantizers.run(node, read, spec.weight_bits) - exact, layer, spec),
                )


class _OneQuantized(Interpreter):
    """Runs the float graph with one layer at fewer bits."""

    def __init__(self, graph: GraphModule, quantizers: _Quantizers, layer: str, spec: QuantSpec) -> None:
        super().__init__(graph)
        self.quantizers, self.layer, self.spec = quantizers, layer, spec

    def run_node(self, n: Node) -> Any:
        exact = super().run_node(n)
        if n.op != "call_module" or n.target != self.layer:
            return exact
        layer = self.quantizers.graph.get_submodule(self.layer)
        read = self.quantizers.read(n, self.env[n.all_input_nodes[0]], self.spec.act_bits)
        change = self.quantizers.run(n, read, self.spec.weight_bits) - exact
        return exact + _without_bias(change, layer, self.spec)


class _Watcher(Interpreter):
    """Notes the histograms of what layers read."""

    def __init__(self, graph: GraphModule, seen: dict[Node, Histogram]) -> None:
        super().__init__(graph)
        self.seen = seen

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module":
            source = n.all_input_nodes[0]
            counted = observe(self.env[source])
            if not counted.is_finite:
                raise UnsupportedModelError(
                    f"activations must be finite, but {n.target} reads NaN or infinity; check the data and the weights "
                    "for overflow"
                )
            self.seen[source] = merge(self.seen[source], counted) if source in self.seen else counted
        return super().run_node(n)


def _observed(graph: GraphModule, batches: Batches) -> dict[Node, Histogram]:
    seen: dict[Node, Histogram] = {}
    with torch.no_grad():
        for batch in batches:
            _Watcher(graph, seen).run(*batch)
    return seen


# Outputs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    """A layer's call in one batch: what it read, and the gradient of the projected outputs by its output."""

    node: Node
    inputs: Tensor
    gradient: Tensor


class _Recorder(Interpreter):
    """Runs the float graph and gives each layer's output a zero to be differentiated by."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.calls: list[tuple[Node, Tensor, Tensor]] = []

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        if n.op != "call_module":
            return output
        zero = torch.zeros_like(output, requires_grad=True)
        self.calls.append((n, self.env[n.all_input_nodes[0]].detach(), zero))
        return output + zero


def _gradients(graph: GraphModule, batch: tuple[Tensor, ...], generator: torch.Generator) -> list[_Call]:
    recorder = _Recorder(graph)
    outputs = _outputs(recorder.run(*batch))
    projected = torch.stack([(output * _direction(output, generator)).sum() for output in outputs]).sum()
    zeros = [zero for _, _, zero in recorder.calls]
    gradients = torch.autograd.grad(projected, zeros, allow_unused=True)
    return [
        _Call(node, inputs, torch.zeros_like(zero) if gradient is None else gradient)
        for (node, inputs, zero), gradient in zip(recorder.calls, gradients, strict=True)
    ]


def _direction(output: Tensor, generator: torch.Generator) -> Tensor:
    """Random, of the outputs' shape; the mean of its outer product with itself is the outputs' Fisher information."""
    found = output.detach()
    signs = torch.randint(0, 2, found.shape, generator=generator, dtype=found.dtype) * 2 - 1
    if not _is_classes(found):
        return signs / _spread(found)
    likely = torch.softmax(found, 1)
    drawn = signs * likely.sqrt()
    return drawn - drawn.sum(1, keepdim=True) * likely


def _mean_divergence(references: Sequence[list[Tensor]], runs: Sequence[list[Tensor]]) -> float:
    """Of all batches, in nats a sample; for outputs that are no classes, half the relative squared error."""
    total, count = 0.0, 0
    for wanted, given in zip(references, runs, strict=True):
        count += int(wanted[0].shape[0])
        for reference, output in zip(wanted, given, strict=True):
            if _is_classes(reference):
                logs = torch.log_softmax(reference.double(), 1)
                total += float((logs.exp() * (logs - torch.log_softmax(output.double(), 1))).sum())
            else:
                total += float(0.5 * ((output - reference) / _spread(reference)).double().square().sum())
    return total / count


def _is_classes(output: Tensor) -> bool:
    """The rule by which agreement is scored, too (`score.py`)."""
    return output.ndim == 2 and output.shape[1] > 1


def _spread(output: Tensor) -> Tensor:
    """By which outputs that are no classes are divided: one standard deviation of each value is half a nat a sample."""
    return output.std(correction=0).clamp(min=1e-12) * math.sqrt(output[0].numel())


def _outputs(result: Any) -> list[Tensor]:
    """Of one run: those that are real numbers."""
    every = result if isinstance(result, tuple | list) else (result,)
    return [output for output in every if isinstance(output, Tensor) and output.is_floating_point()]
