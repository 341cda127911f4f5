"""Operators of canonical graphs that work on each element by itself."""

import torch

aten = torch.ops.aten

# Of one value, and finite wherever it is.
FINITE_FUNCTIONS = (
    aten.relu.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.silu.default,
    aten.gelu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.softplus.default,
    aten.mish.default,
    aten.abs.default,
    aten.neg.default,
)
UNARY = (*FINITE_FUNCTIONS, aten.exp.default, aten.sqrt.default, aten.clone.default)
BINARY = (  # of two values, or of one and a number
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
)
