"""Build: TIR functions -> one object file of plain C functions, by TVM's LLVM back end."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx

from haqnas.hardware import HardwareProfile

# The scheduled part of TVM's default CPU pipeline, without MakePackedAPI (our functions take raw pointers) and
# without LowerTVMBuiltin (it turns register tiles into calls of TVMBackendAllocWorkspace).
PASSES = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    tirx.transform.VectorizeLoop(True),
    tirx.transform.StorageRewrite(),
    tirx.transform.UnrollLoop(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    tirx.transform.CommonSubexprElim(),
    tirx.transform.LowerIntrin(),
)


def tvm_target(profile: HardwareProfile) -> Any:
    """The profile as a tvm.target.Target."""
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": profile.llvm_triple,
            "mcpu": profile.cpu,
            "mattr": list(profile.features),
            # O3 unrolls what is written as a loop to stay small: the same kernels take 30 kB at O2, 44 kB at O3.
            "opt-level": 2,
        }
    )


def compile_functions(functions: Mapping[str, Any], profile: HardwareProfile) -> Any:
    """A TVM runtime module that holds the machine code of the PrimFuncs, by symbol."""
    target = tvm_target(profile)
    module = tirx.transform.BindTarget(target)(tvm.IRModule(dict(functions)))
    module = tvm.ir.transform.Sequential(PASSES)(module)
    return tvm.get_global_func("target.build.llvm")(module, target)


def build(functions: Mapping[str, Any], profile: HardwareProfile, path: Path) -> Path:
    """Write the object file atomically and return `path`; raises OSError."""
    compiled = compile_functions(functions, profile)
    # LLVM ends the process when its output stream fails, so a full disk must meet Python's writing, not LLVM's.
    with os.fdopen(os.memfd_create(path.name), "rb") as memory:
        compiled.write_to_file(f"/proc/self/fd/{memory.fileno()}", "o")
        data = memory.read()
    partial = path.with_suffix(f".{os.getpid()}.o")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
