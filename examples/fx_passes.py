"""The stages of haqnas in a pipeline of torch.fx passes, with a pass of one's own between them.

    python examples/fx_passes.py

Prints the layers, and how often the integer graph agrees with the float network of `digits.py`.
"""

import torch
from digits import build_model, calibration_data, example_inputs, val_data
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager
from torch.utils.data import Dataset

from haqnas.passes import CalibratePass, IntegerizePass, NormalisePass, QuantizePass


def print_layers(module: fx.GraphModule) -> PassResult:
    """A user's pass: looks at the canonical graph, changes nothing."""
    for node in module.graph.nodes:
        if node.op == "call_module":
            print(f"{node.target:<12} {tuple(node.meta['val'].shape)}")
    return PassResult(module, False)


def inputs_of(data: Dataset) -> Tensor:
    """All images of a dataset, (n, 1, 8, 8)."""
    return torch.stack([image for image, _ in data])


def main() -> None:
    """Run the passes, then compare."""
    model = build_model()
    batches = [(batch,) for batch in inputs_of(calibration_data()).split(32)]
    stages = [QuantizePass("w4a8"), CalibratePass(batches), IntegerizePass()]
    manager = PassManager([NormalisePass(example_inputs()), print_layers, *stages])
    integer_graph = manager(fx.symbolic_trace(model)).graph_module
    images = inputs_of(val_data())
    with torch.no_grad():
        agreement = (integer_graph(images)[0].argmax(1) == model(images).argmax(1)).float().mean()
    print(f"agreement    {float(agreement):.2%} of {len(images)} images")


if __name__ == "__main__":
    main()
