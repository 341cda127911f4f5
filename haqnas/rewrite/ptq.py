"""Quantization without training, in several ways: instead of fine-tuning, or before it."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from torch.fx import GraphModule

from haqnas.errors import ConfigurationError
from haqnas.rewrite.calibrate import Batch, calibrate_own
from haqnas.rewrite.quantize import equalize, quantize, round_by_gptq
from haqnas.rewrite.trainable import make_trainable, restore
from haqnas.space.policy import Policy

# plain: weights to the nearest value, activation ranges of least squared error
# corrected: and biases absorb the mean error of each layer with less than 8-bit weights
# equalized: corrected, after cross-layer equalization of channels' ranges
# gptq: corrected, and rounding errors of a channel's weights compensate each other (arXiv 2210.17323)
# matched: corrected, and layers that had a batch norm get its statistics re-estimated behind their rounded weights, so
#     that mean and deviation of each channel are those of the float network; integer weights stay
PtqMethod: TypeAlias = Literal["plain", "corrected", "equalized", "gptq", "matched"]

DEFAULT_METHOD: PtqMethod = "corrected"


def check_method(method: str) -> None:
    """Raise ConfigurationError for an unknown method."""
    if method not in get_args(PtqMethod):
        raise ConfigurationError(f"--ptq is one of {', '.join(get_args(PtqMethod))}, but got {method!r}")


def quantize_without_training(
    canonical: GraphModule, policy: Policy, batches: Sequence[Batch], method: PtqMethod = DEFAULT_METHOD
) -> GraphModule:
    """The calibrated fake-quantized graph of a canonical graph, which stays unchanged; raises as its parts do."""
    fake = quantize(equalize(canonical) if method == "equalized" else canonical, policy)
    if method == "gptq":  # the rounding depends on the quantized inputs, and outputs' ranges on the rounding
        fake = round_by_gptq(calibrate_own(fake, batches, is_corrected=False), batches)
    calibrated = calibrate_own(fake, batches, is_corrected=method != "plain")
    if method == "matched":
        return restore(make_trainable(calibrated, canonical, batches).eval(), calibrated, batches)
    return calibrated
