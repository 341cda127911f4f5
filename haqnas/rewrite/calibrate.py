"""Calibration: what activations look like on a few batches, and the scales and zero points that follow."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.quantspec import act_range
from haqnas.rewrite.fixed_point import integer_bias
from haqnas.rewrite.kinds import LAYER_TYPES, is_layer, tensor_inputs
from haqnas.rewrite.quantize import (
    correct_bias,
    corrected_layers,
    dequantized_weight,
    is_quantizer,
    layer_names,
    quantizer_bits,
    read_act_quant,
    read_integer_weight,
    set_range,
    shape_options,
)
from haqnas.rewrite.ranges import Histogram, choose_range, merge, observe

Batch = tuple[Tensor, ...]

MIN_CORRECTION_SAMPLES = 8  # the mean error of fewer says more about the samples than about the layer


def calibrate(graph: GraphModule, batches: Sequence[Batch], is_corrected: bool = True) -> GraphModule:
    """`calibrate_own` of a copy: the input graph is unchanged."""
    return calibrate_own(copy.deepcopy(graph), batches, is_corrected)


def calibrate_own(graph: GraphModule, batches: Sequence[Batch], is_corrected: bool = True) -> GraphModule:
    """Set the activation ranges of a fake-quantized graph from `batches`, in place; where `is_corrected`, biases too.

    For a graph that nobody else holds: copying brevitas' modules takes a third of the time of lowering a network.
    Each batch holds the network's inputs, (n, ...) each. Ranges are those of least squared error on the values that
    quantized weights produce. `meta["output_steps"]` gets, per output, its observed range / 255.
    Raises ConfigurationError without batches or when one does not fit the network, and UnsupportedModelError when a
    value is NaN or infinite.
    """
    if not batches:
        raise ConfigurationError("calibration needs at least one batch of inputs, but got none")
    graph.eval()
    seen = _observe(with_plain_layers(graph), batches)
    for name, module in graph.named_modules():
        if name in seen:
            chosen = choose_range(seen[name], quantizer_bits(module))
            set_range(module, chosen.scale, chosen.zero_point)
    num_samples = sum(batch[0].shape[0] for batch in batches)
    if is_corrected and corrected_layers(graph) and num_samples >= MIN_CORRECTION_SAMPLES:
        with correct_bias(graph):
            for batch in batches:
                graph(*batch)
    _settle(graph, seen)
    return graph


def settle(graph: GraphModule, batches: Sequence[Batch]) -> GraphModule:
    """What `calibrate` does after ranges and biases are chosen, for a graph that has them from training."""
    settled = copy.deepcopy(graph).eval()
    _settle(settled, _observe(with_plain_layers(settled), batches))
    return settled


def _settle(graph: GraphModule, seen: Mapping[str, Histogram]) -> None:
    _round_biases(graph)
    num_outputs = len(_outputs(graph))
    graph.meta["output_steps"] = tuple(_step(seen[_output_key(index)]) for index in range(num_outputs))


class _Observer(Interpreter):
    """Runs a graph in float: quantizers pass values on and note them in `seen`, under the quantizer's name."""

    def __init__(self, graph: GraphModule, seen: dict[str, Histogram]) -> None:
        super().__init__(graph)
        self.graph_module = graph
        self.seen = seen

    def run_node(self, n: Node) -> Any:
        if is_quantizer(self.graph_module, n):
            source = tensor_inputs(n)[0]
            values = self.env[source]
            self._note(str(n.target), source, values)
            return values
        return super().run_node(n)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for index, (source, values) in enumerate(zip(_outputs(self.graph_module), args[0], strict=True)):
            self._note(_output_key(index), source, values)
        return super().output(target, args, kwargs)

    def _note(self, key: str, source: Node, values: Tensor) -> None:
        counted = observe(values)
        if not counted.is_finite:
            raise UnsupportedModelError(_not_finite(self.graph_module, source))
        self.seen[key] = merge(self.seen[key], counted) if key in self.seen else counted


def _observe(graph: GraphModule, batches: Iterable[Batch]) -> Mapping[str, Histogram]:
    seen: dict[str, Histogram] = {}
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for batch in batches:
        expected = [tuple(node.meta["val"].shape[1:]) for node in placeholders]
        if [tuple(tensor.shape[1:]) for tensor in batch] != expected:
            raise ConfigurationError(
                f"calibration inputs must have the shapes {expected} after the batch dimension, "
                f"but got {[tuple(tensor.shape[1:]) for tensor in batch]}"
            )
        with torch.no_grad():
            _Observer(graph, seen).run(*batch)
    return seen


def with_plain_layers(graph: GraphModule) -> GraphModule:
    """The same graph with torch layers that hold the quantized weights: fast to run, and without quantizers' cost."""
    plain = GraphModule(graph, copy.deepcopy(graph.graph))
    for name in layer_names(graph):
        layer = graph.get_submodule(name)
        kind = next(kind for kind in LAYER_TYPES if isinstance(layer, kind))
        with torch.device("meta"):
            replacement = kind(**shape_options(layer), bias=layer.bias is not None)
        replacement.weight = nn.Parameter(dequantized_weight(layer), requires_grad=False)
        replacement.bias = layer.bias  # type: ignore[assignment]
        plain.set_submodule(name, replacement)
    return plain


def _round_biases(graph: GraphModule) -> None:
    """Give layers the biases that they will have as integers: with few bits, half a unit of the accumulator shows."""
    nodes = [node for node in graph.graph.nodes if is_layer(graph, node)]
    calls = Counter(str(node.target) for node in nodes)
    for node in nodes:
        layer = graph.get_submodule(str(node.target))
        if (
            layer.bias is not None and calls[str(node.target)] == 1
        ):  # a shared layer has one bias per input scale
            quant = read_act_quant(graph.get_submodule(str(_quantizer_before(graph, node).target)))
            unit = read_integer_weight(layer).scale.to(torch.float64) * quant.scale
            layer.bias.data = (integer_bias(layer.bias, unit) * unit).to(torch.float32)  # type: ignore[arg-type]


def _quantizer_before(graph: GraphModule, node: Node) -> Node:
    while not is_quantizer(graph, node):
        node = tensor_inputs(node)[0]
    return node


def _outputs(graph: GraphModule) -> tuple[Node, ...]:
    return tuple(graph.graph.output_node().args[0])  # type: ignore[arg-type]


def _output_key(index: int) -> str:
    return f"output {index}"  # no module's name holds a space


def _step(histogram: Histogram) -> float:
    return (max(histogram.greatest, 0.0) - min(histogram.least, 0.0)) / act_range(8)[1]


def _not_finite(graph: GraphModule, node: Node) -> str:
    """Names the layer whose output is not finite: the nearest one at or before the node."""
    nearest, waiting = node, [node]
    while waiting:
        nearest = waiting.pop(0)
        if is_layer(graph, nearest) or nearest.op == "placeholder":
            break
        waiting.extend(tensor_inputs(nearest))
    place = "an input" if nearest.op == "placeholder" else f"the output of {nearest.target}"
    return (
        f"activations must be finite, but calibration met NaN or infinity in {place} (at {node.name}); "
        "check the calibration data and the weights for overflow"
    )
