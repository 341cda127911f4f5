"""Give a freshly made network plausible weights: batch-norm statistics as after training."""

import torch
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def settle(model: nn.Module, example_inputs: tuple[Tensor, ...], seed: int) -> nn.Module:
    """Randomise scale and shift of each batch norm, then collect its statistics on random batches.

    Without this the running mean is 0 and the variance 1, folding is nearly the identity, and
    the activations of a deep network vanish or explode. The model is changed and returned in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _NORMS):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0.0, 0.2, generator=generator)
            module.momentum = None  # a plain average over the batches below
            module.reset_running_stats()
    model.train()
    with torch.no_grad():
        for _ in range(2):
            batch = [torch.randn((8, *x.shape[1:]), generator=generator) for x in example_inputs]
            model(*batch)
    return model.eval()
