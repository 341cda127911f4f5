"""A fake-quantized graph that is only to be run: what it computes, in a fraction of brevitas' operators."""

from torch import Tensor, nn
from torch.fx import GraphModule

from haqnas.rewrite.calibrate import with_plain_layers
from haqnas.rewrite.quantize import is_quantizer, read_act_quant
from haqnas.rewrite.quants import ActQuant


class _Rounded(nn.Module):
    """An activation quantizer in four passes."""

    def __init__(self, quant: ActQuant) -> None:
        super().__init__()
        self.scale = quant.scale
        self.low, self.high = -quant.zero_point, quant.quant_max - quant.zero_point

    def forward(self, x: Tensor) -> Tensor:
        return x.div(self.scale).round_().clamp_(self.low, self.high).mul_(self.scale)


def lighten(graph: GraphModule) -> GraphModule:
    """A calibrated fake-quantized graph with plain layers and quantizers; it shares biases with `graph`."""
    light = with_plain_layers(graph)
    names = {str(node.target) for node in graph.graph.nodes if is_quantizer(graph, node)}
    for name in names:
        light.set_submodule(name, _Rounded(read_act_quant(graph.get_submodule(name))))
    light.recompile()
    return light.eval().requires_grad_(False)
