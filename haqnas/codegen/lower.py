"""Lower: an integer graph -> a Program. Each node becomes a view, or calls of kernels; nothing is interpreted later."""

import operator
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from haqnas.codegen import images, layers, movement
from haqnas.codegen.borders import shared_halos
from haqnas.codegen.draft import ITEM_BYTES, Choose, Draft, Value
from haqnas.codegen.islands import lower_island
from haqnas.codegen.layout import NO_HALO, Halo, dense
from haqnas.codegen.nodes import arguments, shape_of
from haqnas.codegen.program import LayerInfo, Program, Region, TensorInfo
from haqnas.codegen.split import ONE_THREAD, Cutting
from haqnas.codegen.storage import signed_values
from haqnas.errors import UnsupportedModelError
from haqnas.graph import ops  # noqa: F401  registers the operators that the handlers are keyed by
from haqnas.hardware import HardwareProfile
from haqnas.kernels.table import select

haqnas = torch.ops.haqnas
aten = torch.ops.aten


class _FloatOperators(OperatorSupportBase):
    """Selects what is imported by TVM: every call that is neither ours nor on integers."""

    def is_node_supported(self, submodules: Any, node: fx.Node) -> bool:
        del submodules
        if node.op != "call_function" or str(node.target).startswith("haqnas"):
            return False
        value = node.meta.get("val")
        return not (isinstance(value, torch.Tensor) and value.dtype == torch.uint8)


def lower(
    graph: fx.GraphModule,
    profile: HardwareProfile,
    name: str,
    choose: Choose = select,
    may_store_signed: bool = True,
    cutting: Cutting = ONE_THREAD,
) -> Program:
    """Lower an integer graph (see docs/design.md) for `profile`; `name` must be a C identifier.

    `choose` picks the row of the kernel table for each layer; `may_store_signed`: see `storage.py`; work is cut into
    parts as `cutting` says where the program gains by it. Raises UnsupportedModelError for what no kernel and no
    importer can express.
    """
    isas = profile.isas if may_store_signed else ()
    draft = Draft(name, profile, choose, cutting)
    program = _lower(graph, draft, isas)
    if cutting.threads > 1 and not draft.balance.pays:
        program = _lower(graph, Draft(name, profile, choose), isas)
    return replace(program, threads=cutting.threads)


def _lower(graph: fx.GraphModule, draft: Draft, isas_of_signed: Sequence[str]) -> Program:
    walk = _Walk(draft, _with_islands(graph), isas_of_signed)
    inputs = walk.inputs()
    for node in walk.graph.graph.nodes:
        if node.op == "call_function":
            walk.lower_call(node)
        elif node.op == "call_module":
            walk.lower_module(node)
    outputs = walk.outputs()
    return draft.finish(inputs, outputs)


def _with_islands(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy in which each connected group of float operators is one submodule."""
    copied = fx.GraphModule(graph, _copy_graph(graph.graph))
    partitioner = CapabilityBasedPartitioner(copied, _FloatOperators(), allows_single_node_partition=True)
    return partitioner.fuse_partitions(partitioner.propose_partitions(), prefix="island_")


def _copy_graph(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    result = copied.graph_copy(graph, mapping)
    copied.output(result)
    return copied


@dataclass
class _Walk:
    """The nodes of a graph with the values that they have been lowered to."""

    draft: Draft
    graph: fx.GraphModule
    signed_isas: Sequence[str]  # instruction sets whose kernels may store x - 128

    def __post_init__(self) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.fused = fused_sums(self.graph.graph)
        self.deferred = frozenset(self.fused.values())
        self.signed = signed_values(self.graph.graph, self.fused, self.signed_isas)
        self.wanted = _shared_demands(self.graph.graph, self.signed)
        self.halos: dict[fx.Node, int] = {}  # zero point of each image that has a border

    def inputs(self) -> tuple[TensorInfo, ...]:
        placeholders = [n for n in self.graph.graph.nodes if n.op == "placeholder"]
        return tuple(self._input(index, node) for index, node in enumerate(placeholders))

    def _input(self, index: int, node: fx.Node) -> TensorInfo:
        """An input that is only quantized enters the binary as integers; the caller quantizes."""
        shape = shape_of(node)
        users = list(node.users)
        quantizers = {(u.target, u.args[1:]) for u in users}
        if (
            len(quantizers) == 1
            and users[0].target is haqnas.quantize.default
            and arguments(users[0])[0] is node
        ):
            inverse_scale, zero_point, _low, high = arguments(users[0])[1:]
            info = TensorInfo(
                node.name, "uint8", shape, float(1 / np.float64(inverse_scale)), zero_point, high
            )
            buffer = self.draft.external(Region.INPUT, index, info.size_bytes)
            for user in users:
                self.values[user] = Value(buffer, dense(shape), "uint8")
            return info
        dtype = str(node.meta["val"].dtype).removeprefix("torch.")
        if dtype != "float32":
            raise UnsupportedModelError(
                f"inputs must be float32, but {node.name} is {dtype}; convert it in the model"
            )
        info = TensorInfo(node.name, dtype, shape, 1.0, 0, 0)
        buffer = self.draft.external(Region.INPUT, index, info.size_bytes)
        self.values[node] = Value(buffer, dense(shape), dtype)
        return info

    def outputs(self) -> tuple[TensorInfo, ...]:
        (node,) = [n for n in self.graph.graph.nodes if n.op == "output"]
        infos = []
        for index, result in enumerate(arguments(node)[0]):
            value = self.values[result]
            shape = value.layout.shape
            info = TensorInfo(f"output{index}", value.dtype, shape, 1.0, 0, 0)
            if self.draft.buffers[value.buffer].region is not Region.OUTPUT:
                buffer = self.draft.external(Region.OUTPUT, index, info.size_bytes)
                self.draft.copy(value, Value(buffer, dense(shape), value.dtype), "")
            infos.append(info)
        return tuple(infos)

    # Nodes

    def lower_call(self, node: fx.Node) -> None:
        if node in self.values or node in self.deferred:
            return
        if node.target is operator.getitem:
            self.values[node] = self.values[arguments(node)[0]][arguments(node)[1]]
            return
        handler = HANDLERS.get(node.target)
        if handler is None:
            raise UnsupportedModelError(
                f"the operator {node.target} on integers has no kernel (node {node.name}); "
                "keep the layers around it in float with --exclude, or report it"
            )
        self.values[node] = handler(self, node)
        if node in self.halos:  # after the image, so that its kernel may write into the border
            self.draft.fill_halo(self.values[node], self.halos[node], self.layer(node))

    def lower_module(self, node: fx.Node) -> None:
        """A float island."""
        island: Any = self.graph.get_submodule(str(node.target))
        inputs = [self.value(argument) for argument in arguments(node)]
        kinds = sorted({str(n.target) for n in island.graph.nodes if n.op == "call_function"})
        layer = self.layer(node) or next(
            (n.meta["layer"] for n in island.graph.nodes if n.meta.get("layer")), ""
        )
        results = lower_island(self.draft, island, inputs, layer)
        self.draft.is_exact = False
        self.draft.layers.append(
            LayerInfo(layer or str(node.target), "float", None, None, 0, 0, "tvm: " + ", ".join(kinds), 0)
        )
        (output,) = [n for n in island.graph.nodes if n.op == "output"]
        self.values[node] = results if isinstance(output.args[0], tuple | list) else results[0]

    def value(self, argument: Any) -> Value:
        """The value of a node, which may be a tensor constant of the graph."""
        if argument not in self.values and argument.op == "get_attr":
            self.values[argument] = self.draft.constant_value(self.array(argument))
        found: Value = self.values[argument]
        return found

    def array(self, argument: fx.Node) -> np.ndarray:
        """The value of a constant."""
        tensor: Any = self.graph
        for part in str(argument.target).split("."):
            tensor = getattr(tensor, part)
        array: np.ndarray = tensor.detach().numpy()
        return array

    def layer(self, node: fx.Node) -> str:
        return str(node.meta.get("layer", ""))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return shape_of(node)

    def result(self, node: fx.Node, dtype: str) -> Value:
        """Where a node's result goes: the caller's output where it is one and dense, else the workspace.

        An image gets the halo that the convolutions reading it want, filled with their zero point.
        """
        shape = self.shape(node)
        dtype = "int8" if node in self.signed else dtype
        index = self._output_index(node)
        if index is not None and dtype == "float32" and (len(shape) != 4 or shape[2:] == (1, 1)):
            size = ITEM_BYTES[dtype] * int(np.prod(shape))
            return Value(self.draft.external(Region.OUTPUT, index, size), dense(shape), dtype)
        if dtype in ("uint8", "int8") and len(shape) == 4 and shape[0] == 1:
            halo, zero_point = self.wanted.get(node, (NO_HALO, 0))
            if halo != NO_HALO:
                self.halos[node] = zero_point
            return self.draft.new(shape, dtype, halo)
        return self.draft.new(shape, dtype)

    def _output_index(self, node: fx.Node) -> int | None:
        users = list(node.users)
        if len(users) == 1 and users[0].op == "output":
            positions = [i for i, result in enumerate(arguments(users[0])[0]) if result is node]
            return positions[0] if len(positions) == 1 else None
        return None


def halo_demand(node: fx.Node) -> tuple[Halo, int]:
    """The largest halo that convolutions read around a value, seen through views, and its zero point."""
    halo, zero_point = NO_HALO, 0
    for user in node.users:
        if user.target in CONVOLUTIONS and arguments(user)[0] is node:
            image, weight = arguments(user)[:2]
            kh, kw = shape_of(weight)[2:]
            wanted = layers.halo_of_conv(shape_of(image), (kh, kw), window_of(user))
            point = arguments(user)[10]
        elif user.target in VIEWS:
            wanted, point = halo_demand(user)
        else:
            continue
        if wanted != NO_HALO:
            halo, zero_point = halo.union(wanted), point
    return halo, zero_point


def _shared_demands(graph: fx.Graph, signed: Set[fx.Node]) -> dict[fx.Node, tuple[Halo, int]]:
    """Halo and zero point of each image that has a halo; images alike have one halo, so that they may take turns."""
    demands = {node: halo_demand(node) for node in graph.nodes if node.target not in VIEWS}
    demands = {node: demand for node, demand in demands.items() if demand[0] != NO_HALO}
    kinds = {node: (shape_of(node), point, node in signed) for node, (_, point) in demands.items()}
    halos = shared_halos({node: (demands[node][0], kind) for node, kind in kinds.items()})
    return {node: (halo, demands[node][1]) for node, halo in halos.items()}


def window_of(node: fx.Node) -> layers.Window:
    """How a convolution node moves."""
    stride, padding, dilation, groups = arguments(node)[4:8]
    return layers.Window(tuple(stride), tuple(padding), tuple(dilation), groups)


def _weights(walk: _Walk, node: fx.Node, bits_at: int) -> layers.Weights:
    weight, bias, scale = (walk.array(argument) for argument in arguments(node)[1:4])
    weight_bits, act_bits, in_zero_point = arguments(node)[bits_at : bits_at + 3]
    return layers.Weights(walk.layer(node), weight, bias, scale, weight_bits, act_bits, in_zero_point)


def _ending(node: fx.Node, at: int) -> layers.Ending:
    """Requantization arguments from position `at` on, where the operator has them."""
    return layers.Ending(tuple(arguments(node)[at : at + 3]) if len(arguments(node)) > at else None)


def fused_sums(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Sum -> the convolution, read by nothing else, whose kernel can add the other operand as it finishes."""
    fused: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.target is not haqnas.qadd.default:
            continue
        operands = arguments(node)[:2]
        same_shape = operands[0].meta["val"].shape == operands[1].meta["val"].shape
        convolutions = [
            operand
            for operand in operands
            if operand.target is haqnas.qconv2d.default and len(operand.users) == 1 and operand.args[7] == 1
        ]
        if convolutions and same_shape and operands[0] is not operands[1]:
            fused[node] = convolutions[-1]
    return fused


def _add(walk: _Walk, node: fx.Node) -> Value:
    """A sum, computed where one of its operands is."""
    convolution = walk.fused.get(node)
    if convolution is None:
        return movement.add(walk, node)
    a, b, za, ma, zb, mb, *rest = arguments(node)
    other, scalars = (b, (za, ma, zb, mb)) if a is convolution else (a, (zb, mb, za, ma))
    plain = _ending(convolution, 11)
    out = walk.result(node, "uint8")
    ending = layers.Ending(plain.clamp, layers.Sum(walk.value(other), (*scalars, *rest)))
    weights = _weights(walk, convolution, 8)
    x = walk.value(arguments(convolution)[0])
    layers.lower_conv2d(walk.draft, x, weights, window_of(convolution), ending, out)
    return out


def _conv2d(walk: _Walk, node: fx.Node) -> Value:
    ending = _ending(node, 11)
    out = walk.result(node, ending.dtype)
    weights = _weights(walk, node, 8)
    layers.lower_conv2d(walk.draft, walk.value(arguments(node)[0]), weights, window_of(node), ending, out)
    return out


def _conv_transpose2d(walk: _Walk, node: fx.Node) -> Value:
    ending = _ending(node, 12)
    out = walk.result(node, ending.dtype)
    stride, padding, _output_padding, dilation, groups = arguments(node)[4:9]
    window = layers.Window(tuple(stride), tuple(padding), tuple(dilation), groups)
    weights = _weights(walk, node, 9)
    layers.lower_conv_transpose2d(walk.draft, walk.value(arguments(node)[0]), weights, window, ending, out)
    return out


def _linear(walk: _Walk, node: fx.Node) -> Value:
    ending = _ending(node, 7)
    shape = walk.shape(node)
    index = walk._output_index(node)
    if index is not None and ending.dtype == "float32":
        size = ITEM_BYTES[ending.dtype] * int(np.prod(shape))
        out = Value(walk.draft.external(Region.OUTPUT, index, size), dense(shape), ending.dtype)
    else:
        out = walk.draft.new_dense(shape, ending.dtype)
    layers.lower_linear(walk.draft, walk.value(arguments(node)[0]), _weights(walk, node, 4), ending, out)
    return out


CONVOLUTIONS = (haqnas.qconv2d.default, haqnas.qconv2d_dequantize.default)
VIEWS = (aten.slice.Tensor, aten.reshape.default, aten.view.default)

HANDLERS: dict[Any, Callable[[_Walk, fx.Node], Value]] = {
    haqnas.qconv2d.default: _conv2d,
    haqnas.qconv2d_dequantize.default: _conv2d,
    haqnas.qconv_transpose2d.default: _conv_transpose2d,
    haqnas.qconv_transpose2d_dequantize.default: _conv_transpose2d,
    haqnas.qlinear.default: _linear,
    haqnas.qlinear_dequantize.default: _linear,
    haqnas.quantize.default: movement.quantize,
    haqnas.dequantize.default: movement.dequantize,
    haqnas.qtable.default: movement.table,
    haqnas.qadd.default: _add,
    haqnas.qmul.default: movement.mul,
    haqnas.qmax_pool2d.default: images.max_pool,
    haqnas.qavg_pool2d.default: images.avg_pool,
    haqnas.qadaptive_avg_pool2d.default: images.adaptive_avg_pool,
    haqnas.qupsample_nearest2d.default: images.nearest,
    haqnas.qupsample_bilinear2d.default: images.bilinear,
    aten.reshape.default: movement.reshape,
    aten.view.default: movement.reshape,
    aten.permute.default: movement.permute,
    aten.slice.Tensor: movement.slice_,
    aten.cat.default: movement.cat,
    aten.constant_pad_nd.default: movement.pad,
    aten.clone.default: movement.clone,
}
