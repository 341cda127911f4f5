"""Layers whose weights are shared by all networks of an architecture space.

Batch norm was folded for the canonical graph; a network that shares its weights with others needs it back, with the
statistics of its own activations. Weights are those of the folded layer, each filter scaled to length 1: with batch
norm behind it a filter's length has no effect but on how far a training step turns it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from haqnas.errors import ConfigurationError
from haqnas.graph.edit import attribute, copy_graph, had_batch_norm
from haqnas.graph.kernel_size import crop_weight, cropped_padding
from haqnas.graph.layers import list_layers
from haqnas.graph.parametrise import Layered, rebuild_layer, scale_layer
from haqnas.rewrite.calibrate import Batch
from haqnas.rewrite.narrow import LayerPart
from haqnas.rewrite.trainable import layer_function, output_statistics
from haqnas.space.architecture import ArchitectureSpace, KnobKind

NORM_EPSILON = 1e-5
SHORTEST_FILTER = 1e-12

Statistics = tuple[Tensor, Tensor]  # mean and variance of each output channel


class SharedLayer(nn.Module):
    """A layer that runs with a part of its channels and a smaller kernel; batch norm uses the batch's statistics.

    `sizes`: the smaller kernels, each of which is made of the next greater one by a learned matrix.
    """

    def __init__(self, layer: Layered, statistics: Statistics | None, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layer = (layer,)  # for its configuration alone: in a tuple, so that it is no submodule
        self.function, self.geometry = layer_function(layer)
        weight, bias = layer.weight.detach(), layer.bias
        rank = weight.dim() - 2
        self.transforms = nn.ParameterDict({str(size): torch.eye(size**rank) for size in sizes})
        if statistics is None:
            self.weight = nn.Parameter(weight.clone())
            self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
            self.norm_weight = self.norm_bias = None
            return
        mean, variance = statistics
        self.weight = nn.Parameter(_with_filters_of_length_1(layer))
        self.bias = None
        self.norm_weight = nn.Parameter((variance + NORM_EPSILON).sqrt())
        self.norm_bias = nn.Parameter(mean.clone())

    def forward(self, x: Tensor, part: LayerPart | None = None, size: int | None = None) -> Tensor:
        """The layer with all channels, or those of `part`, and its whole kernel, or one of `size`."""
        weight, bias = self.cut(part, size)
        geometry = self.geometry
        if part is not None and "groups" in geometry:
            geometry = geometry | {"groups": part.groups}
        if size is not None:
            geometry = geometry | {"padding": cropped_padding(self.layer[0], size)}  # type: ignore[arg-type]
        made: Tensor = self.function(x, weight, bias, **geometry)
        affine = self.affine(part)
        if affine is None:
            return made
        return functional.batch_norm(made, None, None, *affine, training=True, eps=NORM_EPSILON)

    def cut(self, part: LayerPart | None, size: int | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of that part, without batch norm; gradients reach the shared ones."""
        weight = self.weight if part is None else part.weight(self.weight)
        if size is not None:
            transforms = {int(smaller): matrix for smaller, matrix in self.transforms.items()}
            weight = crop_weight(weight, size, transforms)
        bias = self.bias if part is None or self.bias is None else part.per_channel(self.bias)
        return weight, bias

    def affine(self, part: LayerPart | None) -> tuple[Tensor, Tensor] | None:
        """Factor and shift of that part's batch norm, None where there is none."""
        if self.norm_weight is None or self.norm_bias is None:
            return None
        if part is None:
            return self.norm_weight, self.norm_bias
        return part.per_channel(self.norm_weight), part.per_channel(self.norm_bias)


class NormedLayer(nn.Module):
    """A layer of one network with its own batch norm, to be measured and folded."""

    def __init__(self, layer: Layered, affine: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.layer = layer
        kind = nn.BatchNorm2d if layer.weight.ndim == 4 else nn.BatchNorm1d
        self.norm = kind(len(affine[0]), eps=NORM_EPSILON)
        self.norm.weight.data, self.norm.bias.data = (part.detach().clone() for part in affine)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.norm(self.layer(x))
        return made

    def folded(self) -> Layered:
        """The one layer that computes the same with the statistics that were measured."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            return scale_layer(self.layer, factor, norm.bias.double() - norm.running_mean.double() * factor)


def normed_layers(canonical: GraphModule) -> tuple[str, ...]:
    """Layers that get a batch norm: where one was folded, and that are called once."""
    calls = Counter(str(node.target) for node in canonical.graph.nodes if node.op == "call_module")
    normed = [str(node.target) for node in canonical.graph.nodes if had_batch_norm(node)]
    return tuple(name for name in normed if calls[name] == 1)


def measure_statistics(canonical: GraphModule, batches: Sequence[Batch]) -> Mapping[str, Statistics]:
    """Statistics of the outputs of those layers on `batches`; raises ConfigurationError where none are given."""
    normed = normed_layers(canonical)
    if normed and not batches:
        raise ConfigurationError(
            "the first factors of batch norms need at least one batch of inputs, but got none"
        )
    return output_statistics(canonical, normed, batches) if normed else {}


def share_weights(
    canonical: GraphModule, space: ArchitectureSpace, statistics: Mapping[str, Statistics]
) -> GraphModule:
    """The graph with a SharedLayer in the place of each layer; `canonical` is unchanged.

    Batch norms start such that outputs of layers have the mean and variance of `statistics`.
    """
    shared = copy_graph(canonical)
    kernels = {knob.layers[0]: knob.choices for knob in space.knobs if knob.kind is KnobKind.KERNEL}
    for layer in list_layers(canonical):
        sizes = kernels.get(layer.name, (0, 0))
        smaller = range(sizes[0] - 2, sizes[-1] - 1, -2)
        module = SharedLayer(attribute(canonical, layer.name), statistics.get(layer.name), smaller)
        shared.set_submodule(layer.name, module)
    return shared


def insert_cut(
    graph: GraphModule, name: str, shared: SharedLayer, part: LayerPart | None, size: int | None
) -> None:
    """Give a layer of a specialised graph its part of the shared weights, and batch norm where it has one."""
    weight, bias = (None if values is None else values.detach().clone() for values in shared.cut(part, size))
    assert weight is not None
    layer: Layered = attribute(graph, name)
    layer = rebuild_layer(layer, weight.contiguous(), bias)
    affine = shared.affine(part)
    graph.set_submodule(name, layer if affine is None else NormedLayer(layer, affine))


def fold_measured(graph: GraphModule) -> GraphModule:
    """A canonical graph again: each NormedLayer becomes one layer."""
    folded = copy_graph(graph)
    for node in folded.graph.nodes:
        module = attribute(folded, str(node.target)) if node.op == "call_module" else None
        if isinstance(module, NormedLayer):
            folded.set_submodule(str(node.target), module.folded())
    return folded


def _with_filters_of_length_1(layer: Layered) -> Tensor:
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, kh, kw)
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        lengths = torch.linalg.vector_norm(grouped, dim=(1, 3, 4)).flatten()
    else:
        lengths = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    with torch.no_grad():
        return scale_layer(
            layer, 1 / lengths.double().clamp(min=SHORTEST_FILTER), lengths * 0
        ).weight.detach()
