"""A pass for pipelines of TVM: Relax functions are run by networks that haqnas compiled.

pipeline = tvm.ir.transform.Sequential([HaqnasPass({"main": "build/digits"}), relax.get_pipeline("zero")])
executable = relax.build(pipeline(module), "llvm")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haqnas.artifact import Artifact, load
from haqnas.codegen.relax_pass import Implementation, relax_module_pass
from haqnas.errors import ConfigurationError


def HaqnasPass(networks: Mapping[str, Artifact | Path | str]) -> Any:  # noqa: N802  a pass, named as those of TVM
    """A `tvm.transform.ModulePass` that replaces Relax functions by compiled networks.

    `networks`: name of a Relax function -> artefact, or its directory, of format `tvm`. The functions keep their
    signatures: float32 in and out, batch 1. Outputs are those of the artefact, bit for bit. The kernels go into what
    `relax.build` makes, also where it is exported as a library. Raises ConfigurationError for artefacts without that
    format; the pass raises it for functions that are not there or have another signature.
    """
    return relax_module_pass({name: _implementation(artifact) for name, artifact in networks.items()})


def _implementation(given: Artifact | Path | str) -> Implementation:
    artifact = given if isinstance(given, Artifact) else load(Path(given))
    manifest = artifact.manifest
    file = f"lib/{manifest.name}_tvm.o"
    if file not in manifest.files:
        raise ConfigurationError(
            f"{artifact.directory} has no object file for TVM (its formats are {', '.join(manifest.formats)}); compile "
            "with --format tvm"
        )
    return Implementation(manifest.name, manifest.inputs, manifest.outputs, artifact.directory / file)
