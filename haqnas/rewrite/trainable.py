"""The module that fine-tuning trains: a fake-quantized graph with fast straight-through layers and batch norm back.

Batch norm was folded before quantization, so that weights and scales of the integer graph have one meaning. For
training it stands behind the *quantized* layer again: it keeps activations in range while weights jump between few
values. Folding it afterwards scales the layer's outputs per channel, which is what weight scales do: the integer
weights stay exactly those that were trained.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from haqnas.graph.edit import had_batch_norm
from haqnas.quantspec import weight_range
from haqnas.rewrite.batch_norm import reestimate_batch_norm
from haqnas.rewrite.calibrate import Batch, settle
from haqnas.rewrite.kinds import aten, is_layer, tensor_inputs
from haqnas.rewrite.quantize import (
    is_quantizer,
    layer_names,
    output_channels,
    read_act_quant,
    set_range,
    set_weight,
    shape_options,
    weight_bits,
    weight_scale,
)
from haqnas.rewrite.quants import ActQuant
from haqnas.rewrite.straight_through import quantize_activation, quantize_weight
from haqnas.rewrite.weight_scales import SMALLEST_SCALE


class TrainedQuantizer(nn.Module):
    """An activation quantizer whose step is learned; its zero point stays."""

    def __init__(self, quant: ActQuant) -> None:
        super().__init__()
        self.log_step = nn.Parameter(
            torch.tensor(quant.scale).log()
        )  # a step is positive and learned by ratios
        self.low, self.high = -quant.zero_point, quant.quant_max - quant.zero_point

    def forward(self, x: Tensor) -> Tensor:
        return quantize_activation(x, self.log_step.exp(), self.low, self.high)


class TrainedLayer(nn.Module):
    """A convolution or linear layer with learned weights and weight steps, and a batch norm where one was folded."""

    def __init__(self, layer: nn.Module, has_norm: bool) -> None:
        super().__init__()
        bits = weight_bits(layer)
        self.high, self.is_binary = weight_range(bits)[1], bits == 1
        self.is_transposed = isinstance(layer, nn.ConvTranspose2d)
        self.function, self.geometry = layer_function(layer)
        weight, bias = layer.get_parameter("weight"), layer.bias
        self.weight = nn.Parameter(weight.detach().clone())
        self.log_step = nn.Parameter(weight_scale(layer).clamp(min=SMALLEST_SCALE).log())
        self.bias = None if bias is None or has_norm else nn.Parameter(bias.detach().clone())  # type: ignore[operator]
        kind = nn.BatchNorm2d if weight.ndim == 4 else nn.BatchNorm1d
        self.norm = kind(output_channels(layer)) if has_norm else None

    def quantized_weight(self) -> Tensor:
        """The weights that the layer computes with."""
        return quantize_weight(self.weight, self.log_step.exp(), self.high, self.is_binary)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.function(x, self.quantized_weight(), self.bias, **self.geometry)
        return made if self.norm is None else self.norm(made)

    def folded(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, its scale, bias of the same layer without batch norm; the integer weights are the same."""
        with torch.no_grad():
            step = self.log_step.exp()
            integers = torch.round(self.quantized_weight() / step)
            if self.norm is None:
                return integers * step, step, self.bias
            factor, shift = _affine(self.norm)
            shape = [1] * self.weight.ndim
            shape[int(self.is_transposed)] = -1
            factor = factor.reshape(shape)
            step = (step * factor.abs()).clamp(min=SMALLEST_SCALE)
            return integers * factor.sign() * step, step, shift


def make_trainable(
    fake_quantized: GraphModule, canonical: GraphModule, batches: Sequence[Batch]
) -> GraphModule:
    """A module to train that computes what a calibrated fake-quantized graph computes; both inputs are unchanged.

    Batch norms start with the statistics of `batches`, and such that outputs of layers have the mean and deviation
    that they have in the float network `canonical`. `restore` is the way back.
    """
    graph = copy.deepcopy(fake_quantized)
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    normed: list[str] = []
    for node in list(graph.graph.nodes):
        target = str(node.target)
        if is_quantizer(graph, node):
            _skip_relu(graph, node)
        elif is_layer(graph, node) and calls[target] == 1 and _wants_norm(graph.get_submodule(target), node):
            normed.append(target)
    for target in calls:
        module = graph.get_submodule(target)
        if target in layer_names(fake_quantized):
            graph.set_submodule(target, TrainedLayer(module, target in normed))
        else:
            graph.set_submodule(target, TrainedQuantizer(read_act_quant(module)))
    graph.recompile()
    return _with_statistics(graph, canonical, normed, batches) if normed else graph


def restore(trained: GraphModule, fake_quantized: GraphModule, batches: Sequence[Batch]) -> GraphModule:
    """The fake-quantized graph with all that was learned, batch norms folded, ready for `integerize`.

    `fake_quantized` is what `make_trainable` was given. Biases are rounded to units of the accumulator, and
    `meta["output_steps"]` is read from `batches`.
    """
    restored = copy.deepcopy(fake_quantized)
    for name, module in trained.named_modules():
        if isinstance(module, TrainedLayer):
            weight, step, bias = module.folded()
            layer = restored.get_submodule(name)
            set_weight(layer, weight, step)
            if bias is not None:
                layer.bias.data.copy_(bias)  # type: ignore[operator]
        elif isinstance(module, TrainedQuantizer):
            set_range(restored.get_submodule(name), float(module.log_step.detach().exp()), -module.low)
    return settle(restored, batches)


def has_batch_norm(trainable: nn.Module) -> bool:
    """Whether there are batch norms to re-estimate."""
    return any(isinstance(module, _BatchNorm) for module in trainable.modules())


def layer_function(layer: nn.Module) -> tuple[Any, dict[str, Any]]:
    """The torch function of a layer, and its arguments besides input, weight and bias."""
    if isinstance(layer, nn.Linear):
        return functional.linear, {}
    function = {
        nn.Conv1d: functional.conv1d,
        nn.Conv2d: functional.conv2d,
        nn.ConvTranspose2d: functional.conv_transpose2d,
    }[next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d) if isinstance(layer, kind))]
    sizes = {"in_channels", "out_channels", "kernel_size"}
    return function, {name: value for name, value in shape_options(layer).items() if name not in sizes}


def _wants_norm(layer: nn.Module, node: Node) -> bool:
    """Where a batch norm was folded, and can be again: into one scale per channel."""
    return had_batch_norm(node) and weight_scale(layer).numel() == output_channels(layer)


def _skip_relu(graph: GraphModule, quantizer: Node) -> None:
    """Clamping at the integer 0 is ReLU: one pass over the values less, forward and backward."""
    (before,) = tensor_inputs(quantizer)
    is_relu = before.target is aten.relu.default and len(before.users) == 1
    if is_relu and read_act_quant(graph.get_submodule(str(quantizer.target))).zero_point == 0:
        quantizer.replace_input_with(before, tensor_inputs(before)[0])
        graph.graph.erase_node(before)


def _with_statistics(
    graph: GraphModule, canonical: GraphModule, normed: Sequence[str], batches: Sequence[Batch]
) -> GraphModule:
    statistics = output_statistics(canonical, normed, batches)
    for name in normed:
        norm = graph.get_submodule(f"{name}.norm")
        mean, variance = statistics[name]
        with torch.no_grad():
            norm.weight.copy_((variance + norm.eps).sqrt())  # type: ignore[operator]
            norm.bias.copy_(mean)  # type: ignore[operator]
    measured = reestimate_batch_norm(graph, batches)
    assert isinstance(measured, GraphModule)
    return measured


def output_statistics(
    graph: GraphModule, names: Sequence[str], batches: Sequence[Batch]
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Mean and variance per channel of the outputs of layers, averaged over batches."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}

    def record(name: str, output: Tensor) -> None:
        reduced = [dim for dim in range(output.ndim) if dim != 1]
        variance, mean = torch.var_mean(output, reduced, correction=0)
        seen[name].append((mean, variance))

    handles = [
        graph.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: record(name, output)
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                graph(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: (torch.stack([m for m, _ in found]).mean(0), torch.stack([v for _, v in found]).mean(0))
        for name, found in seen.items()
    }


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(factor, shift) per channel of a batch norm in eval mode, computed in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * factor
    return factor.float(), shift.float()
