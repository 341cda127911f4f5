"""Write a network as an int8 .tflite file, as TensorFlow's converter would: NHWC, fused activations, min-max ranges.

The converters from PyTorch need other versions of the packages that haqnas pins; the interpreter's wheel brings the
schema, and few operators are enough for the networks of the benchmark. The walk is over haqnas's canonical graph,
whose batch norms are folded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from tests.benchmarks.session import UnsupportedError

aten = torch.ops.aten
NONE, RELU, RELU6 = (
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU6,
)
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Quant:
    """real = scale * (q - zero_point), q in int8."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Quant":
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, 1e-8)
        return cls(scale, round(-128 - low / scale))


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the file."""

    index: int
    quant: Quant
    shape: tuple[int, ...]  # NHWC where it has four dimensions


@dataclass
class Draft:
    """The file under construction."""

    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    operators: list[Any] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def tensor(
        self,
        shape: Sequence[int],
        kind: int,
        scales: Sequence[float],
        zero_points: Sequence[int],
        data: NDArray[Any] | None = None,
        dimension: int = 0,
    ) -> int:
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = list(scales), list(zero_points)
        quantization.quantizedDimension = dimension
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name = list(shape), kind, f"t{len(self.tensors)}".encode()
        tensor.quantization, tensor.buffer = quantization, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def value(self, shape: Sequence[int], quant: Quant) -> Value:
        index = self.tensor(shape, schema.TensorType.INT8, [quant.scale], [quant.zero_point])
        return Value(index, quant, tuple(shape))

    def number(self, real: float) -> Value:
        """A constant of one element; positive."""
        quant = Quant(real / 127, 0)
        data = np.array([127], np.int8)
        return Value(self.tensor([1], schema.TensorType.INT8, [quant.scale], [0], data), quant, (1,))

    def integers(self, values: Any) -> int:
        data = np.array(values, np.int32)
        return self.tensor(data.shape, schema.TensorType.INT32, [], [], data)

    def emit(self, code: str, inputs: Sequence[int], out: Value, options: str = "", **fields: Any) -> Value:
        """Append an operator whose options table, `ConvOptions` say, gets `fields`."""
        number = getattr(schema.BuiltinOperator, code)
        if number not in self.codes:
            self.codes.append(number)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(number)
        operator.inputs, operator.outputs = list(inputs), [out.index]
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        self.operators.append(operator)
        return out

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = []
        for number in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _nhwc(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


class _Ranges(fx.Interpreter):
    """Least and greatest value of each node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.quants: dict[fx.Node, Quant] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.quants[n] = Quant.of_range(float(value.min()), float(value.max()))
        return value


@dataclass(frozen=True, slots=True)
class Writer:
    """One walk over a canonical graph; `is_exact` pads as PyTorch does, by PAD operators where SAME differs."""

    graph: fx.GraphModule
    quants: dict[fx.Node, Quant]
    is_exact: bool
    draft: Draft = field(default_factory=Draft)
    values: dict[fx.Node, Value] = field(default_factory=dict)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return _nhwc(node.meta["val"].shape)

    def fused(self, node: fx.Node) -> tuple[fx.Node, int]:
        """The node whose value `node` writes, and the activation in between."""
        users = list(node.users)
        if len(users) == 1 and users[0].target is aten.relu.default:
            return users[0], RELU
        if len(users) == 1 and users[0].target is aten.hardtanh.default and users[0].args[1:] == (0.0, 6.0):
            return users[0], RELU6
        return node, NONE

    def write(self) -> bytes:
        inputs, outputs = [], []
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.draft.value(self.shape(node), self.quants[node])
                inputs.append(self.values[node].index)
            elif node.op == "output":
                outputs = [self.values[value].index for value in node.args[0]]
            elif node.op != "get_attr" and node not in self.values:
                self.step(node)
        return self.draft.finish(inputs, outputs)

    def step(self, node: fx.Node) -> None:
        if node.op == "call_module":
            layer = self.graph.get_submodule(str(node.target))
            emit = self.linear if isinstance(layer, nn.Linear) else self.convolution
            last, activation = self.fused(node)
            self.values[last] = self.values[node] = emit(node, layer, last, activation)
            return
        rule = _RULES.get(cast("Any", node.target))
        if rule is None:
            raise UnsupportedError(f"the benchmark writes no .tflite operator for {node.target}")
        rule(self, node)

    # Layers with weights ------------------------------------------------------------------------------------

    def weights(self, layer: Any, x: Value, values: Tensor, dimension: int) -> tuple[int, int]:
        """(weight, bias) tensors; `values` in the file's order, one scale per index of `dimension`."""
        others = [i for i in range(values.ndim) if i != dimension]
        scales = (values.abs().amax(others) / 127).clamp(min=1e-9).double()
        along = [-1 if i == dimension else 1 for i in range(values.ndim)]
        integers = torch.round(values / scales.reshape(along)).clamp(-127, 127).to(torch.int8)
        bias_scales = scales * x.quant.scale
        bias = torch.zeros_like(scales) if layer.bias is None else layer.bias.detach().double()
        bias_integers = torch.round(bias / bias_scales).to(torch.int32)
        kinds, zeros = schema.TensorType, [0] * len(scales)
        return (
            self.draft.tensor(values.shape, kinds.INT8, scales.tolist(), zeros, integers.numpy(), dimension),
            self.draft.tensor(bias.shape, kinds.INT32, bias_scales.tolist(), zeros, bias_integers.numpy()),
        )

    def linear(self, node: fx.Node, layer: Any, last: fx.Node, activation: int) -> Value:
        x = self.values[cast("fx.Node", node.args[0])]
        weight, bias = self.weights(layer, x, layer.weight.detach(), 0)
        out = self.draft.value(self.shape(last), self.quants[last])
        name = "FullyConnectedOptions"
        return self.draft.emit(
            "FULLY_CONNECTED", [x.index, weight, bias], out, name, fusedActivationFunction=activation
        )

    def convolution(self, node: fx.Node, layer: Any, last: fx.Node, activation: int) -> Value:
        pads: Pads = tuple((pad, pad) for pad in layer.padding)  # type: ignore[assignment]
        source = cast("fx.Node", node.args[0])
        if source.target is aten.constant_pad_nd.default:
            left, right, top, bottom = source.args[1][:4]  # type: ignore[index,misc]
            pads, source = ((top, bottom), (left, right)), cast("fx.Node", source.args[0])
        x, padding = self.padded(self.values[source], pads, layer.kernel_size, layer.stride)
        out = self.draft.value(self.shape(last), self.quants[last])
        is_depthwise = layer.groups > 1
        order = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
        weight = layer.weight.detach().permute(*order).contiguous()
        inputs = [x.index, *self.weights(layer, x, weight, 3 if is_depthwise else 0)]
        geometry = {
            "padding": padding,
            "strideH": layer.stride[0],
            "strideW": layer.stride[1],
            "fusedActivationFunction": activation,
        }
        if not is_depthwise:
            return self.draft.emit("CONV_2D", inputs, out, "Conv2DOptions", **geometry)
        if layer.groups != layer.in_channels or layer.in_channels != layer.out_channels:
            raise UnsupportedError("the benchmark writes no grouped convolution as .tflite")
        name = "DepthwiseConv2DOptions"
        return self.draft.emit("DEPTHWISE_CONV_2D", inputs, out, name, depthMultiplier=1, **geometry)

    def padded(self, x: Value, pads: Pads, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Value, int]:
        """SAME where its sums, or with `is_exact` its places, are those of `pads`; else a PAD operator."""
        if pads == ((0, 0), (0, 0)):
            return x, VALID
        same = []
        for size, (before, after), k, s in zip(x.shape[1:3], pads, kernel, stride, strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            has_same_size = (size + before + after - k) // s + 1 == -(-size // s)
            is_same = (before, after) == (total // 2, total - total // 2)
            same.append(is_same if self.is_exact else has_same_size)
        if all(same):
            return x, SAME
        shape = (x.shape[0], *(n + sum(p) for n, p in zip(x.shape[1:3], pads, strict=True)), x.shape[3])
        amounts = self.draft.integers([(0, 0), *pads, (0, 0)])
        out = self.draft.value(shape, x.quant)
        return self.draft.emit("PAD", [x.index, amounts], out, "PadOptions"), VALID

    # Other operators ----------------------------------------------------------------------------------------

    def operand(self, argument: Any) -> Value:
        return self.values[argument] if isinstance(argument, fx.Node) else self.draft.number(float(argument))

    def binary(self, node: fx.Node) -> None:
        code, options = {
            aten.add.Tensor: ("ADD", "AddOptions"),
            aten.mul.Tensor: ("MUL", "MulOptions"),
        }[cast("Any", node.target)]
        last, activation = self.fused(node)
        out = self.draft.value(self.shape(last), self.quants[last])
        inputs = [self.operand(argument).index for argument in node.args[:2]]
        self.values[node] = self.values[last] = self.draft.emit(
            code, inputs, out, options, fusedActivationFunction=activation
        )

    def hardswish(self, node: fx.Node) -> None:
        x = self.values[cast("fx.Node", node.args[0])]
        out = self.draft.value(self.shape(node), self.quants[node])
        self.values[node] = self.draft.emit("HARD_SWISH", [x.index], out, "HardSwishOptions")

    def hardsigmoid(self, node: fx.Node) -> None:
        """relu6(x + 3) / 6: TensorFlow Lite has no such operator."""
        x = self.values[cast("fx.Node", node.args[0])]
        shifted = self.draft.value(x.shape, Quant.of_range(0.0, 6.0))
        three, sixth = self.draft.number(3.0), self.draft.number(1 / 6)
        self.draft.emit("ADD", [x.index, three.index], shifted, "AddOptions", fusedActivationFunction=RELU6)
        out = self.draft.value(x.shape, Quant.of_range(0.0, 1.0))
        self.values[node] = self.draft.emit("MUL", [shifted.index, sixth.index], out, "MulOptions")

    def mean(self, node: fx.Node) -> None:
        """Of whole images; keeps the scale, as the converter does."""
        x = self.values[cast("fx.Node", node.args[0])]
        shape = self.shape(node)
        axes = self.draft.integers([1, 2])
        out = self.draft.value(shape, self.quants[node])
        self.values[node] = self.draft.emit(
            "MEAN", [x.index, axes], out, "ReducerOptions", keepDims=len(shape) == 4
        )

    def average_pool(self, node: fx.Node) -> None:
        source = cast("fx.Node", node.args[0])
        if tuple(cast("Any", node.args[1])) != self.shape(source)[1:3] and self.shape(node)[1:3] != (1, 1):
            raise UnsupportedError("the benchmark writes averages over whole images only as .tflite")
        self.mean(node)

    def max_pool(self, node: fx.Node) -> None:
        source, kernel, stride, pads = cast("Any", node.args[:4])
        x = self.values[source]
        # Values before it are not below zero, so that SAME, whose padding never wins, and zeros are alike.
        x, padding = self.padded(x, ((pads[0],) * 2, (pads[1],) * 2), kernel, stride)
        sizes = dict(
            zip(("filterHeight", "filterWidth", "strideH", "strideW"), (*kernel, *stride), strict=True)
        )
        out = self.draft.value(self.shape(node), x.quant)
        self.values[node] = self.draft.emit(
            "MAX_POOL_2D", [x.index], out, "Pool2DOptions", padding=padding, **sizes
        )

    def reshape(self, node: fx.Node) -> None:
        x = self.values[cast("fx.Node", node.args[0])]
        if len(x.shape) == 4 and x.shape[1:3] != (1, 1):
            raise UnsupportedError("the benchmark writes no reshape of images as .tflite")
        out = self.draft.value(self.shape(node), x.quant)
        target = self.draft.integers(out.shape)
        self.values[node] = self.draft.emit(
            "RESHAPE", [x.index, target], out, "ReshapeOptions", newShape=list(out.shape)
        )

    def slice(self, node: fx.Node) -> None:
        source, dimension, start, stop, step = cast("Any", node.args)
        x = self.values[source]
        axis = {0: 0, 1: 3, 2: 1, 3: 2}[dimension]
        begin, end, strides = [0] * 4, list(x.shape), [1] * 4
        begin[axis], end[axis], strides[axis] = start, min(stop, x.shape[axis]), step
        inputs = [x.index, *(self.draft.integers(values) for values in (begin, end, strides))]
        out = self.draft.value(self.shape(node), x.quant)
        self.values[node] = self.draft.emit("STRIDED_SLICE", inputs, out, "StridedSliceOptions")

    def pad(self, node: fx.Node) -> None:
        """Padding that no convolution takes over: zeros of the channels of a shortcut."""
        if all(user.op == "call_module" for user in node.users):
            return
        source, amounts = cast("Any", node.args[:2])
        x = self.values[source]
        pairs = [(0, 0)] * (4 - len(amounts) // 2) + list(zip(amounts[-2::-2], amounts[-1::-2], strict=True))
        out = self.draft.value(self.shape(node), x.quant)
        order = [pairs[i] for i in (0, 2, 3, 1)]
        self.values[node] = self.draft.emit("PAD", [x.index, self.draft.integers(order)], out, "PadOptions")


_RULES: dict[Any, Callable[[Writer, fx.Node], None]] = {
    aten.add.Tensor: Writer.binary,
    aten.mul.Tensor: Writer.binary,
    aten.hardswish.default: Writer.hardswish,
    aten.hardsigmoid.default: Writer.hardsigmoid,
    aten.mean.dim: Writer.mean,
    aten.adaptive_avg_pool2d.default: Writer.average_pool,
    aten.avg_pool2d.default: Writer.average_pool,
    aten.max_pool2d.default: Writer.max_pool,
    aten.reshape.default: Writer.reshape,
    aten.slice.Tensor: Writer.slice,
    aten.constant_pad_nd.default: Writer.pad,
}


def write_tflite(model: nn.Module, example: Tensor, samples: Tensor, is_exact: bool) -> bytes:
    """The file; `samples` (n, ...) give the ranges. Raises UnsupportedError."""
    graph = normalise(trace(model, (example,)))
    ranges = _Ranges(graph)
    with torch.no_grad():
        ranges.run(samples)
    return Writer(graph, ranges.quants, is_exact).write()
