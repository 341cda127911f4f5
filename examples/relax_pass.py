"""The digits network in a pipeline of TVM's Relax, run by the kernels of haqnas.

    python examples/relax_pass.py [DIR]

TVM imports the float network with an argmax after it; HaqnasPass replaces the network, and the argmax stays TVM's.
Needs a C++ compiler, with which TVM links.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import tvm
from digits import build_model, calibration_data, example_inputs, val_data
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

import haqnas
from haqnas.passes.relax import HaqnasPass

COUNT = 200  # of the test images


def with_argmax(network: relax.Function) -> tvm.IRModule:
    """A module whose function `classify` calls the function `network`."""
    builder = relax.BlockBuilder()
    variable = builder.add_func(network.with_attr("global_symbol", "network"), "network")
    image = relax.Var("image", relax.TensorType((1, 1, 8, 8), "float32"))
    with builder.function("classify", [image]):
        outputs = builder.emit(relax.Call(variable, [image]))
        logits = builder.emit(relax.TupleGetItem(outputs, 0))
        builder.emit_func_output(builder.emit(relax.op.argmax(logits, axis=1)))
    return builder.finalize()


def main(folder: Path) -> None:
    """Compile, build, compare with the artefact's own executable."""
    model, example = build_model(), example_inputs()
    artifact = haqnas.compile(
        model,
        example,
        output=folder,
        name="digits",
        bits="w4a8",
        formats=["exe", "tvm"],
        compare=False,
        calibration_data=calibration_data(),
    )
    imported = from_exported_program(torch.export.export(model, example), keep_params_as_input=False)
    pipeline = tvm.ir.transform.Sequential([HaqnasPass({"network": artifact}), relax.get_pipeline("zero")])
    executable = relax.build(pipeline(with_argmax(imported["main"])), "llvm")
    vm = relax.VirtualMachine(executable, tvm.cpu())
    images, labels = (
        np.stack([np.asarray(part) for part in column]) for column in zip(*val_data(), strict=True)
    )
    images, labels = images[:COUNT], labels[:COUNT]
    found = np.concatenate(
        [vm["classify"](tvm.runtime.tensor(image[np.newaxis])).numpy() for image in images]
    )
    (logits,) = artifact.run(images)
    print(f"same class as the executable: {int((found == logits.argmax(1)).sum())} of {COUNT}")
    print(f"right:                        {int((found == labels).sum())} of {COUNT}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
