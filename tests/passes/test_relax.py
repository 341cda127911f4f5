"""HaqnasPass in a pipeline of TVM: the VM gives what the artefact's own executable gives, bit for bit."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

import haqnas
from haqnas.artifact import Artifact
from haqnas.errors import ConfigurationError
from haqnas.passes.relax import HaqnasPass
from tests.conftest import require_program
from tests.passes.networks import Pairs, images, joined, joined_inputs, small


def to_relax(model: nn.Module, example: tuple[Tensor, ...], **options: bool) -> tvm.IRModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_exported_program(torch.export.export(model, example), **options)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    require_program("g++", "g++")  # with which TVM links what it runs
    folder = tmp_path_factory.mktemp("artefacts")
    formats = ("exe", "tvm")
    example = tuple(part[:1] for part in joined_inputs(1))
    return {
        "small": haqnas.compile(
            small(), (images(1, 1, 6, 6),), output=folder / "s", name="small", formats=formats
        ),
        "joined": haqnas.compile(
            joined(),
            example,
            output=folder / "j",
            name="joined",
            formats=formats,
            bits="w4a8",
            threads=2,
            compare=False,
            calibration_data=Pairs(32),
        ),
    }


def run(vm: relax.VirtualMachine, name: str, *inputs: Tensor) -> list[bytes]:
    """Outputs of the VM for each record, joined."""
    records = [
        [tvm.runtime.tensor(part[i : i + 1].numpy()) for part in inputs] for i in range(len(inputs[0]))
    ]
    results = [vm[name](*record) for record in records]
    columns = [list(result) if not isinstance(result, tvm.runtime.Tensor) else [result] for result in results]
    return [
        np.concatenate([part.numpy() for part in column]).tobytes() for column in zip(*columns, strict=True)
    ]


def test_network_with_batch_norm_runs_bit_for_bit_in_a_pipeline(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    x = images(4, 1, 6, 6)
    (expected,) = artifacts["small"].run(x.numpy())
    module = to_relax(small(), (x[:1],), keep_params_as_input=False)
    pipeline = tvm.ir.transform.Sequential(
        [HaqnasPass({"main": artifacts["small"].directory}), relax.transform.LegalizeOps()]
    )
    executable = relax.build(pipeline(module), "llvm")
    assert run(relax.VirtualMachine(executable, tvm.cpu()), "main", x) == [expected.tobytes()]
    executable.export_library(str(tmp_path / "network.so"))
    loaded = tvm.runtime.load_module(str(tmp_path / "network.so"))
    assert run(relax.VirtualMachine(loaded, tvm.cpu()), "main", x) == [expected.tobytes()]


def test_two_networks_and_float_operators_share_a_module(artifacts: dict[str, Artifact]) -> None:
    """`twice` is the user's: it calls `small` and changes its result; `joined` has threads."""
    x, inputs = images(3, 1, 6, 6), joined_inputs(3)
    floats = {
        "small": to_relax(small(), (x[:1],), keep_params_as_input=False)["main"],
        "joined": to_relax(joined(), tuple(part[:1] for part in inputs), keep_params_as_input=False)["main"],
    }
    builder = relax.BlockBuilder()
    variables = {
        name: builder.add_func(body.with_attr("global_symbol", name), name) for name, body in floats.items()
    }
    given = relax.Var("given", relax.TensorType((1, 1, 6, 6), "float32"))
    with builder.function("twice", [given]):
        called = builder.emit(relax.Call(variables["small"], [given]))
        part = builder.emit(relax.TupleGetItem(called, 0))
        builder.emit_func_output(builder.emit(relax.op.add(part, part)))
    made = HaqnasPass(artifacts)(builder.finalize())
    vm = relax.VirtualMachine(relax.build(made, "llvm"), tvm.cpu())
    (single,) = artifacts["small"].run(x.numpy())
    assert run(vm, "twice", x) == [(single + single).tobytes()]
    assert run(vm, "joined", *inputs) == [
        part.tobytes() for part in artifacts["joined"].run(*(part.numpy() for part in inputs))
    ]


def test_inputs_out_of_range_and_nan_are_quantized_as_everywhere(artifacts: dict[str, Artifact]) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.5, -0.0]).repeat(6)[:36]
    x = x.reshape(1, 1, 6, 6)
    module = to_relax(small(), (torch.zeros(1, 1, 6, 6),), keep_params_as_input=False)
    made = HaqnasPass({"main": artifacts["small"]})(module)
    vm = relax.VirtualMachine(relax.build(made, "llvm"), tvm.cpu())
    with np.errstate(invalid="ignore"):
        (expected,) = artifacts["small"].run(x.numpy())
    assert run(vm, "main", x) == [expected.tobytes()]


def test_wrong_uses_say_what_is_expected(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    module = to_relax(small(), (images(1, 1, 6, 6),), keep_params_as_input=False)
    with pytest.raises(ConfigurationError, match="no Relax function 'body'; its functions are main"):
        HaqnasPass({"body": artifacts["small"]})(module)
    with pytest.raises(
        ConfigurationError, match=r"parameters.*float32 \(1, 1, 6, 6\).*float32 \(1, 2, 6, 6\)"
    ):
        HaqnasPass({"main": artifacts["joined"]})(module)
    with pytest.raises(ConfigurationError, match="keep_params_as_input=False"):
        HaqnasPass({"main": artifacts["small"]})(
            to_relax(small(), (images(1, 1, 6, 6),), keep_params_as_input=True)
        )
    plain = haqnas.compile(
        small(), (images(1, 1, 6, 6),), output=tmp_path / "plain", formats=("exe",), name="small"
    )
    with pytest.raises(ConfigurationError, match="--format tvm"):
        HaqnasPass({"main": plain})
