"""Precision and layout that training runs fastest in."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch.fx import GraphModule

from haqnas.train.recipe import Precision


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """bfloat16 where asked for, or where the CPU multiplies it: elsewhere it is emulated and slow."""
    if precision == "auto":
        has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_instructions else None
    return torch.bfloat16 if precision == "bfloat16" else None


@contextlib.contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Compute in `dtype` what may be; None: all as it is."""
    with torch.autocast("cpu", dtype or torch.bfloat16, dtype is not None):
        yield


def copy_for_inference(graph: GraphModule) -> GraphModule:
    """A copy in eval mode that needs no gradients."""
    return in_channels_last(copy.deepcopy(graph)).eval().requires_grad_(False)


def in_channels_last(graph: GraphModule) -> GraphModule:
    """Change the layout of a module's weights: convolutions of images run faster."""
    changed: GraphModule = graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return changed
