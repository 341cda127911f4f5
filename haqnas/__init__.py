"""haqnas: hardware-aware quantization compiler for PyTorch.

    artifact = haqnas.compile(model, example_inputs, target="arm-cpu", output="out")
    artifact.verify()

The public names are imported on first use, so that `import haqnas.errors` does not load torch and TVM.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haqnas.api import (
        Artifact,
        Network,
        Profiled,
        Progress,
        TargetResult,
        compile,
        compile_file,
        compile_file_for_targets,
        compile_for_targets,
        load,
        profile,
    )

__all__ = [
    "Artifact",
    "Network",
    "Profiled",
    "Progress",
    "TargetResult",
    "compile",
    "compile_file",
    "compile_file_for_targets",
    "compile_for_targets",
    "load",
    "profile",
]


def __getattr__(name: str) -> Any:
    if name == "nn":  # a module of its own, which is not loaded with the rest
        return importlib.import_module("haqnas.nn")
    if name in __all__:
        from haqnas import api

        return getattr(api, name)
    raise AttributeError(f"module 'haqnas' has no attribute {name!r}")
