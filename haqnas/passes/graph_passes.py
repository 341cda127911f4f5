"""The stages of quantization as torch.fx passes, for a PassManager of torch or one after the other.

    PassManager([NormalisePass(example_inputs), QuantizePass("w4a8"), CalibratePass(batches), IntegerizePass()])

Each gives a PassResult with a new module and leaves its input as it was. What nodes say of themselves is kept on the
nodes made from them: `stack_trace`, `nn_module_stack` and `custom`, which is where torch keeps users' notes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from haqnas.errors import ConfigurationError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import read_policy
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.kinds import LAYER_TYPES
from haqnas.rewrite.quantize import is_quantizer, quantize
from haqnas.settings import Settings
from haqnas.space.policy import Policy


class NormalisePass(PassBase):
    """Any graph module -> the canonical graph (docs/design.md): batch norm folded, layers as modules, aten operators.

    It is traced anew on `example_inputs` (batch 1), so it may come from `torch.fx.symbolic_trace`, from
    `torch.export.export(...).module()` or from passes of the user. Raises UnsupportedModelError with the line of the
    model, ConfigurationError for wrong inputs.
    """

    def __init__(self, example_inputs: tuple[Tensor, ...]) -> None:
        self.example_inputs = example_inputs

    def call(self, graph_module: GraphModule) -> PassResult:
        """Trace and normalise."""
        return PassResult(normalise(trace(graph_module, self.example_inputs)), True)


class QuantizePass(PassBase):
    """Canonical graph -> fake-quantized graph. `bits`: "8", "w4a8", "policy.json" or a Policy."""

    def __init__(self, bits: str | Policy = "8") -> None:
        policy = read_policy(Settings(bits=bits))
        if policy is None:
            raise ConfigurationError(
                f"QuantizePass takes bits that are known, but got {bits!r}; `haqnas.compile` searches for them, and "
                "its policy.json may be given here"
            )
        self.policy = policy

    def requires(self, graph_module: GraphModule) -> None:
        """Raise ConfigurationError unless the graph is canonical."""
        for node in graph_module.graph.nodes:
            is_layer = node.op == "call_module" and isinstance(
                graph_module.get_submodule(str(node.target)), LAYER_TYPES
            )
            is_operator = node.op == "call_function" and not _is_integer_operator(node.target)
            is_known = is_layer or is_operator or node.op in {"placeholder", "get_attr", "output"}
            if not is_known or ("val" not in node.meta and node.op != "output"):
                raise ConfigurationError(
                    f"QuantizePass takes a canonical graph, but {node.op} {node.target} does not belong there; "
                    "run NormalisePass first, and give nodes that your own passes make a `val` in their meta"
                )

    def call(self, graph_module: GraphModule) -> PassResult:
        """Insert quantizers. Raises ConfigurationError where the policy names an unknown layer."""
        return PassResult(quantize(graph_module, self.policy), True)


class CalibratePass(PassBase):
    """Fake-quantized graph -> the same with activation ranges set and biases corrected from `batches`.

    A batch is a tuple of tensors (n, ...), one per input.
    """

    def __init__(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        self.batches = batches

    def requires(self, graph_module: GraphModule) -> None:
        """Raise ConfigurationError unless the graph has quantizers."""
        _require_quantizers(graph_module, "CalibratePass")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Calibrate. Raises ConfigurationError where batches do not fit the network."""
        return PassResult(calibrate(graph_module, self.batches), True)


class IntegerizePass(PassBase):
    """Calibrated graph -> integer graph of `haqnas::` operators, which computes exactly what a binary computes."""

    def requires(self, graph_module: GraphModule) -> None:
        """Raise ConfigurationError unless the graph is calibrated."""
        _require_quantizers(graph_module, "IntegerizePass")
        if "output_steps" not in graph_module.meta:
            raise ConfigurationError("IntegerizePass takes a calibrated graph; run CalibratePass before it")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Integerize. Raises UnsupportedModelError where an accumulator could overflow."""
        return PassResult(integerize(graph_module), True)


def _is_integer_operator(target: object) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target.namespace == "haqnas"


def _require_quantizers(graph_module: GraphModule, name: str) -> None:
    if not any(is_quantizer(graph_module, node) for node in graph_module.graph.nodes):
        raise ConfigurationError(f"{name} takes a fake-quantized graph; run QuantizePass before it")
