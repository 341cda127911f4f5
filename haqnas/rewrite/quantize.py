"""Fake quantization by brevitas: layers, activation quantizers, bias correction, equalization.

The only module that imports brevitas. Weight scales are parameters of the brevitas layers; they start at the value of
least squared error, and fine-tuning can learn them. An activation quantizer is a brevitas `QuantIdentity` with one
scale and one integer zero point; `calibrate` sets them through `set_range`.
"""

import copy
import functools
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from haqnas.errors import UnsupportedModelError
from haqnas.graph.choices import require_no_choices
from haqnas.graph.edit import inherited_meta
from haqnas.quantspec import WEIGHT_BITS, QuantSpec, act_range, weight_range
from haqnas.rewrite.kinds import LAYER_TYPES, aten, is_layer, tensor_inputs
from haqnas.rewrite.plan import Plan, plan_quantizers
from haqnas.rewrite.quants import ActQuant, IntegerWeight
from haqnas.rewrite.weight_scales import scale_axis, weight_scales
from haqnas.space.policy import Policy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # brevitas warns about extras of its own that are not installed
    import brevitas.nn as qnn
    from brevitas.core.zero_point import ParameterZeroPoint
    from brevitas.graph.calibrate import _BiasCorrection, bias_correction_mode
    from brevitas.graph.equalize import EqualizeGraph
    from brevitas.graph.gptq import gptq_mode
    from brevitas.inject.enum import QuantType, ScalingImplType, ScalingPerOutputType
    from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8ActPerTensorFloat


class _Weight(Int8WeightPerChannelFloat):
    scaling_impl_type = ScalingImplType.PARAMETER


class _BinaryWeight(_Weight):
    quant_type = QuantType.BINARY


class _Activation(ShiftedUint8ActPerTensorFloat):
    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_init = 1.0
    zero_point_impl = ParameterZeroPoint
    zero_point_init = 0.0


def quantize(graph: GraphModule, policy: Policy) -> GraphModule:
    """Make the fake-quantized module of a canonical graph; its activation ranges are set by `calibrate`.

    Layers become brevitas layers under the same names; quantizers are `call_module` nodes after the values they
    quantize. The input is unchanged. Raises ConfigurationError when the policy names an unknown layer or a
    block has alternatives left, and
    UnsupportedModelError for weights that are not finite.
    """
    require_no_choices(graph)
    names = [str(node.target) for node in graph.graph.nodes if is_layer(graph, node)]
    policy.check_layers(list(dict.fromkeys(names)))
    plan = plan_quantizers(graph, policy)
    positions = {node.name: index for index, node in enumerate(graph.graph.nodes)}
    quantized = copy.deepcopy(graph)
    nodes = tuple(quantized.graph.nodes)
    copies = {node: nodes[positions[node.name]] for node in graph.graph.nodes}
    for name in dict.fromkeys(names):
        quantized.set_submodule(name, _quantized_layer(name, graph.get_submodule(name), policy.spec_of(name)))
    _insert_quantizers(quantized, plan, copies)
    _insert_narrowing(quantized, plan, copies)
    quantized.graph.lint()
    quantized.recompile()
    return quantized


def equalize(graph: GraphModule) -> GraphModule:
    """Cross-layer equalization (arXiv 1906.04721) by brevitas: same function, channels of similar range.

    Only where layers are joined by operators that commute with a positive scale of a channel.
    """
    equalized = copy.deepcopy(graph)
    invariant = {aten.relu.default, aten.max_pool2d.default, aten.avg_pool2d.default, aten.mean.dim}
    invariant |= {aten.adaptive_avg_pool2d.default, aten.upsample_nearest2d.default, aten.clone.default}
    for node in equalized.graph.nodes:  # brevitas knows these operators by their torch names
        if node.target in invariant:
            node.meta["orig_target"] = torch.reshape
        elif node.target is aten.add.Tensor and len(tensor_inputs(node)) == 2:
            node.meta["orig_target"] = operator.add
    with torch.no_grad():
        equalized = EqualizeGraph(merge_bias=False).apply(equalized)
    for node in equalized.graph.nodes:
        node.meta.pop("orig_target", None)
    equalized.recompile()
    assert isinstance(equalized, GraphModule)
    return equalized


def is_quantizer(graph: GraphModule, node: Node) -> bool:
    """Whether the node calls an activation quantizer."""
    return node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), qnn.QuantIdentity)


def read_act_quant(module: nn.Module) -> ActQuant:
    """Scale, zero point and bits of an activation quantizer."""
    # One run of the quantizer: each of brevitas' own `scale()` and `zero_point()` runs it anew.
    proxy = module.act_quant.fused_activation_quant_proxy  # type: ignore[union-attr]
    with torch.no_grad():
        _, scale, zero_point, *_ = proxy.tensor_quant(torch.zeros(1))  # type: ignore[union-attr, operator]
    return ActQuant(float(scale), int(zero_point), quantizer_bits(module))


def quantizer_bits(module: nn.Module) -> int:
    """Bits of an activation quantizer, before or after calibration."""
    return int(module.haqnas_act_bits)  # type: ignore[arg-type]


def set_range(module: nn.Module, scale: float, zero_point: int) -> None:
    """Set an activation quantizer's scale and zero point (of a module that the caller owns)."""
    tensor_quant = module.act_quant.fused_activation_quant_proxy.tensor_quant  # type: ignore[union-attr]
    with torch.no_grad():
        tensor_quant.scaling_impl.value.fill_(scale * act_range(quantizer_bits(module))[1])  # type: ignore
        tensor_quant.zero_point_impl.value.fill_(scale * zero_point)  # type: ignore[union-attr, operator]


def read_integer_weight(module: nn.Module) -> IntegerWeight:
    """The integer weights of a quantized layer, exactly those that its fake quantization simulates."""
    with torch.no_grad():
        quantized = module.quant_weight()  # type: ignore[operator]
    bits = weight_bits(module)
    low, high = weight_range(bits)
    values = torch.round(quantized.value / quantized.scale).clamp(low, high).to(torch.int8)
    scale = quantized.scale.detach().flatten()
    return IntegerWeight(values, scale.expand(output_channels(module)).clone(), bits)


def set_weight(module: nn.Module, weight: Tensor, scale: Tensor) -> None:
    """Set the weight and the scale, which broadcasts to it, of a quantized layer that the caller owns."""
    bits = weight_bits(module)
    with torch.no_grad():
        module.weight.copy_(weight)  # type: ignore[operator]
        parameter = module.weight_quant.tensor_quant.scaling_impl.value  # type: ignore[union-attr]
        assert isinstance(parameter, Tensor)
        parameter.copy_((scale * weight_range(bits)[1]).reshape(parameter.shape))


def weight_scale(module: nn.Module) -> Tensor:
    """Scale of a layer's quantized weights, as it broadcasts to them."""
    with torch.no_grad():
        return module.quant_weight().scale.detach()  # type: ignore[operator, no-any-return]


def output_channels(module: nn.Module) -> int:
    """Number of output channels (or features) of a layer."""
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def dequantized_weight(module: nn.Module) -> Tensor:
    """The float weights that a quantized layer computes with."""
    with torch.no_grad():
        return module.quant_weight().value.detach()  # type: ignore[operator, no-any-return]


class _CorrectBias(_BiasCorrection):
    """brevitas takes dimension 1 for the channels of all but rank 3; linear layers have them last."""

    def channel_dim(self, inp: Tensor, module: nn.Module) -> int:
        return inp.ndim - 1 if isinstance(module, nn.Linear) else 1

    def register_hook_to_wbiol(self, model: nn.Module, hooks: list[Any]) -> None:
        assert isinstance(model, GraphModule)
        for name in corrected_layers(model):
            self.iterations[name] = 0
            hook = functools.partial(self.forward_hook_wbiol, name=name)
            hooks.append(model.get_submodule(name).register_forward_hook(hook))


def corrected_layers(graph: GraphModule) -> tuple[str, ...]:
    """Layers whose bias is worth correcting: with 8-bit weights the mean error vanishes beside all others."""
    names = layer_names(graph)
    return tuple(name for name in names if weight_bits(graph.get_submodule(name)) < WEIGHT_BITS[-1])


def round_by_gptq(graph: GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> GraphModule:
    """A copy of a calibrated graph whose weights are rounded by GPTQ (arXiv 2210.17323), layer by layer, by brevitas.

    The error of each weight is made up for by the weights not yet rounded, as the inputs in `batches` ask for.
    Binary and transposed layers stay as they are.
    """
    rounded = copy.deepcopy(graph).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of layers that it leaves out
        with gptq_mode(rounded, create_weight_orig=False, act_order=True) as mode:
            for _ in range(mode.num_layers):
                for batch in batches:
                    mode.model(*batch)
                mode.update()
    rounded.recompile()  # brevitas leaves a forward method of its own behind
    return rounded


@contextmanager
def correct_bias(graph: GraphModule) -> Iterator[None]:
    """While open, forwards collect the mean error of each layer's output; on leaving, biases absorb it."""
    mode = bias_correction_mode(graph)
    mode.bias_correction = _CorrectBias()
    with torch.no_grad(), mode:
        yield


def weight_bits(module: nn.Module) -> int:
    """Bits of a quantized layer's weights."""
    return int(module.haqnas_weight_bits)  # type: ignore[arg-type]


def _quantized_layer(name: str, layer: nn.Module, spec: QuantSpec) -> nn.Module:
    weight = layer.weight.detach()  # type: ignore[operator]
    if not torch.isfinite(weight).all():
        raise UnsupportedModelError(f"the weights of {name} must be finite, but some are NaN or infinite")
    binary = spec.weight_bits == 1
    axis = scale_axis(layer)
    scales = weight_scales(weight, spec.weight_bits, axis)
    base = _BinaryWeight if binary else _Weight
    granularity = ScalingPerOutputType.TENSOR if axis is None else ScalingPerOutputType.CHANNEL
    options: dict[str, Any] = {
        "weight_quant": base,
        "weight_bit_width": spec.weight_bits,
        # brevitas' scale parameter is the greatest representable weight
        "weight_scaling_init": scales * weight_range(spec.weight_bits)[1],
        "weight_scaling_per_output_type": granularity,
        "return_quant_tensor": False,
        "bias": layer.bias is not None,
    }
    quantized = _brevitas_class(layer)(**shape_options(layer), **options)
    quantized.weight.data.copy_(weight)
    if layer.bias is not None:
        quantized.bias.data.copy_(layer.bias.detach())  # type: ignore[operator]
    quantized.haqnas_weight_bits = spec.weight_bits  # brevitas does not tell those of binary weights
    assert isinstance(quantized, nn.Module)
    return quantized.train(layer.training)


def _brevitas_class(layer: nn.Module) -> Any:
    classes = (qnn.QuantConv1d, qnn.QuantConv2d, qnn.QuantConvTranspose2d, qnn.QuantLinear)
    return next(made for kind, made in zip(LAYER_TYPES, classes, strict=True) if isinstance(layer, kind))


def shape_options(layer: nn.Module) -> dict[str, Any]:
    """Constructor arguments of a layer that fix its shape, without the bias."""
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
    names += ["output_padding"] if isinstance(layer, nn.ConvTranspose2d) else []
    return {name: getattr(layer, name) for name in names}


def _new_quantizer(graph: GraphModule, name: str, bits: int) -> str:
    module = qnn.QuantIdentity(act_quant=_Activation, bit_width=bits, return_quant_tensor=False)
    module.haqnas_act_bits = bits  # brevitas runs the quantizer to tell them, which takes milliseconds
    graph.add_submodule(name, module.train(graph.training))
    return name


def _insert_call(graph: GraphModule, target: str, source: Node, before: Node) -> Node:
    with graph.graph.inserting_before(before):
        inserted = graph.graph.call_module(target, (source,))
    inserted.meta = {"val": source.meta["val"], **inherited_meta(source)}
    return inserted


def _insert_quantizers(graph: GraphModule, plan: Plan, copies: dict[Node, Node]) -> None:
    targets: dict[str, str] = {}
    for point in plan.points:
        if point.group not in targets:
            targets[point.group] = _new_quantizer(graph, f"{point.group}_quantizer", point.bits)
        source, readers = copies[point.node], {copies[reader] for reader in point.readers}
        inserted = _insert_call(graph, targets[point.group], source, source.next)
        source.replace_all_uses_with(inserted, delete_user_cb=lambda user: user in readers)  # noqa: B023


def _insert_narrowing(graph: GraphModule, plan: Plan, copies: dict[Node, Node]) -> None:
    inserted: dict[tuple[Node, int], Node] = {}
    for layer, bits in plan.narrowed:
        reader = copies[layer]
        source = tensor_inputs(reader)[0]
        if (source, bits) not in inserted:
            target = _new_quantizer(graph, f"{source.name}_to_{bits}_bits", bits)
            inserted[source, bits] = _insert_call(graph, target, source, source.next)
        reader.replace_input_with(source, inserted[source, bits])


def layer_names(graph: GraphModule) -> Sequence[str]:
    """Names of the layers that a policy can set, in graph order."""
    return tuple(dict.fromkeys(str(node.target) for node in graph.graph.nodes if is_layer(graph, node)))
