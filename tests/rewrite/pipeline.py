"""What the tests of this folder share: a module through all stages, and the error between two results."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy


@dataclass(frozen=True)
class Stages:
    canonical: GraphModule
    fake: GraphModule
    integer: GraphModule
    inputs: tuple[Tensor, ...]

    def outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """First output of the canonical, the fake-quantized and the integer graph."""
        with torch.no_grad():
            canonical, fake, integer = (
                graph(*self.inputs)[0] for graph in (self.canonical, self.fake, self.integer)
            )
        return canonical, fake, integer

    def operators(self) -> list[str]:
        """Names of the operators of the integer graph, without overload."""
        nodes = self.integer.graph.nodes
        return [str(n.target).rpartition(".")[0] for n in nodes if n.op == "call_function"]


def canonical_graph(module: nn.Module, *shapes: tuple[int, ...]) -> GraphModule:
    return normalise(trace(module.eval(), tuple(torch.randn(1, *shape) for shape in shapes)))


def run_stages(
    module: nn.Module, *shapes: tuple[int, ...], bits: str | Policy = "w8a8", batch: int = 8
) -> Stages:
    """All stages of a module whose inputs have `shapes` (without batch), calibrated on the inputs it is run on."""
    canonical = canonical_graph(module, *shapes)
    policy = bits if isinstance(bits, Policy) else Policy(QuantSpec.parse(bits))
    inputs = tuple(torch.randn(batch, *shape) for shape in shapes)
    fake = calibrate(quantize(canonical, policy), [inputs])
    return Stages(canonical, fake, integerize(fake), inputs)


def signal_to_noise_db(wanted: Tensor, given: Tensor) -> float:
    noise = (wanted - given).double().square().mean().clamp(min=1e-30)
    return float(10 * torch.log10(wanted.double().square().mean() / noise))
