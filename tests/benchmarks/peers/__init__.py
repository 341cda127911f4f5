"""One module per peer; `PEERS` names them all."""

from collections.abc import Mapping
from types import MappingProxyType

# Module of this folder: its variants. Written here too, because importing a peer takes seconds and much memory.
PEERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "openvino": ("int8", "default precision"),
        "litert": ("int8",),
        "onnxruntime": ("int8 qdq", "int8 qoperator"),
        "pytorch": ("float32 eager", "bfloat16 compiled"),
    }
)
