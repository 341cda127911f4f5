"""How one tensor is quantized: the values that pass from the fake-quantized to the integer graph."""

from dataclasses import dataclass

from torch import Tensor

from haqnas.quantspec import act_range


@dataclass(frozen=True, slots=True)
class ActQuant:
    """Quantization of a stored activation: real = scale * (integer - zero_point), 0 <= integer < 2**bits."""

    scale: float
    zero_point: int
    bits: int

    @property
    def quant_max(self) -> int:
        return act_range(self.bits)[1]


@dataclass(frozen=True, slots=True)
class IntegerWeight:
    """A layer's weights as integers: real = scale[output channel] * values."""

    values: Tensor  # int8, shape of the float weight
    scale: Tensor  # (out_channels,) float32
    bits: int
