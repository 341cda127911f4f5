"""haqnas inside other pipelines: torch.fx passes, a backend of torch.compile, a pass for TVM's Relax.

`haqnas.passes.relax` has the pass for Relax; it is a module of its own, so that the others load without TVM.
"""

from haqnas.passes.graph_passes import CalibratePass, IntegerizePass, NormalisePass, QuantizePass
from haqnas.passes.torch_compile import EagerWarning, backend

__all__ = [
    "CalibratePass",
    "EagerWarning",
    "IntegerizePass",
    "NormalisePass",
    "QuantizePass",
    "backend",
]
