"""Whether a canonical graph, traced at batch size 1, also computes larger batches."""

import torch
from torch import Tensor, fx

MAX_RELATIVE_ERROR = 1e-3  # kernels of torch sum in another order at another batch size


def runs_batched(gm: fx.GraphModule, example_inputs: tuple[Tensor, ...]) -> bool:
    """Run two random inputs together and one by one, and compare.

    False where the model writes its batch size into the graph or moves the batch to another dimension
    (torch's own attention does): such a graph has to be run on one input at a time.
    """
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn((2, *value.shape[1:]), generator=generator) for value in example_inputs]
    with torch.no_grad():
        single = [gm(*(value[index : index + 1] for value in pair)) for index in range(2)]
        try:
            together = gm(*pair)
        except RuntimeError:  # the only class that torch raises for shapes that do not fit
            return False
    return all(_is_same(both, torch.cat(parts)) for both, *parts in zip(together, *single, strict=True))


def _is_same(actual: Tensor, expected: Tensor) -> bool:
    if actual.shape != expected.shape:
        return False
    return bool((actual - expected).abs().max() <= MAX_RELATIVE_ERROR * expected.abs().max() + 1e-6)
