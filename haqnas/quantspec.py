"""QuantSpec: the bits of one layer, written `w4a8`; and the integer ranges that bits stand for."""

import re
from dataclasses import dataclass
from typing import Self

from haqnas.errors import ConfigurationError

WEIGHT_BITS = range(1, 9)
ACT_BITS = range(2, 9)
_NAME = re.compile(r"w(\d+)a(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class QuantSpec:
    """Weight and activation bits of one layer.

    Weights are symmetric per output channel, activations unsigned per tensor with a zero point.

    >>> QuantSpec.parse("w4a8")
    QuantSpec(weight_bits=4, act_bits=8)
    >>> str(QuantSpec(2, 4))
    'w2a4'
    """

    weight_bits: int
    act_bits: int

    def __post_init__(self) -> None:
        if self.weight_bits not in WEIGHT_BITS:
            raise ConfigurationError(f"weight bits must be 1 to 8, but got {self.weight_bits}")
        if self.act_bits not in ACT_BITS:
            raise ConfigurationError(f"activation bits must be 2 to 8, but got {self.act_bits}")

    def __str__(self) -> str:
        return f"w{self.weight_bits}a{self.act_bits}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `w4a8`, or `8` for `w8a8`; raises ConfigurationError."""
        text = f"w{text}a{text}" if text.isdecimal() else text
        match = _NAME.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"bits are written as 8 or w4a8, but got {text!r}")
        return cls(int(match[1]), int(match[2]))


def weight_range(weight_bits: int) -> tuple[int, int]:
    """Least and greatest integer weight: symmetric, so that a sign flip loses nothing.

    One bit means {-1, +1}; there is no zero.
    """
    greatest = max(1, 2 ** (weight_bits - 1) - 1)
    return -greatest, greatest


def act_range(act_bits: int) -> tuple[int, int]:
    """Least and greatest integer activation: unsigned."""
    return 0, 2**act_bits - 1
