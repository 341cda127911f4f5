"""The digits network with a block that may be one of three operators.

    haqnas inspect examples/digits_operators.py --space
    haqnas compile examples/digits_operators.py --target arm-cpu --architecture auto --latency-budget 70% \
        --supernet-epochs 20 --qat-epochs 8 --trials 60 -o build/operators

The network is trained with its first operator; the supernet trains the others.
"""

from digits import DigitsNet, calibration_data, example_inputs, train_data, trained, val_data
from torch import nn

from haqnas.nn import Choice

__all__ = ["build_model", "calibration_data", "example_inputs", "train_data", "val_data"]


class OperatorsNet(DigitsNet):
    """Its body is trained as it is; a search may put another one in its place."""

    def __init__(self) -> None:
        super().__init__()
        separable = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 1, bias=False),
            nn.BatchNorm2d(32),
        )
        self.body = Choice(self.body, separable, nn.Identity(), names=("conv", "separable", "skip"))


def build_model() -> nn.Module:
    """Train with the first operator, as without a choice."""
    return trained(OperatorsNet)
