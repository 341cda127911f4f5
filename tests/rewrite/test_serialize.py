import json

import numpy as np
import pytest
import torch

from haqnas.errors import VerificationError
from haqnas.rewrite.serialize import load_graph, save_graph
from tests.rewrite.pipeline import run_stages
from tests.rewrite.test_integerize import Attention, Residual


@pytest.mark.parametrize("module", [Residual(), Attention()], ids=["residual", "attention"])
def test_loaded_graph_computes_the_same_bits_and_knows_the_same_facts(module: torch.nn.Module) -> None:
    shape = (3, 8, 8) if isinstance(module, Residual) else (6, 8)
    stages = run_stages(module, shape, bits="w4a8")
    loaded = load_graph(*save_graph(stages.integer))
    assert torch.equal(loaded(*stages.inputs)[0], stages.integer(*stages.inputs)[0])
    assert loaded.meta["output_steps"] == pytest.approx(stages.integer.meta["output_steps"])
    for before, after in zip(stages.integer.graph.nodes, loaded.graph.nodes, strict=True):
        if before.op != "output":
            assert before.meta["layer"] == after.meta["layer"]
            assert before.meta["val"].shape == after.meta["val"].shape
            assert before.meta["val"].dtype == after.meta["val"].dtype


class OddNames(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict({"a-b": torch.nn.Linear(4, 4), "3x3": torch.nn.Linear(4, 4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers["3x3"](self.layers["a-b"](x))


@pytest.mark.parametrize("module", [torch.nn.Sequential(torch.nn.Linear(4, 4)), OddNames()])
def test_layers_whose_names_are_no_identifiers_are_saved(module: torch.nn.Module) -> None:
    stages = run_stages(module, (4,))
    loaded = load_graph(*save_graph(stages.integer))
    assert torch.equal(loaded(*stages.inputs)[0], stages.integer(*stages.inputs)[0])


def test_saving_is_deterministic_and_a_fixed_point() -> None:
    text, arrays = save_graph(run_stages(Residual(), (3, 8, 8)).integer)
    again, arrays_again = save_graph(load_graph(text, arrays))
    assert again == text
    assert arrays.keys() == arrays_again.keys()
    assert all(np.array_equal(arrays[name], arrays_again[name]) for name in arrays)


@pytest.fixture(scope="module")
def saved() -> tuple[str, dict[str, np.ndarray]]:
    return save_graph(run_stages(Residual(), (3, 8, 8)).integer)


@pytest.mark.parametrize(
    "target",
    [
        "os.system.default",
        "aten.from_file.default",
        "prims.add.default",
        "aten.add",
        "builtins.eval.x",
        "aten.__class__.x",
    ],
)
def test_operator_outside_of_the_allowed_ones_is_refused(
    saved: tuple[str, dict[str, np.ndarray]], target: str
) -> None:
    document = json.loads(saved[0])
    next(node for node in document["nodes"] if node["op"] == "call_function")["target"] = target
    with pytest.raises(VerificationError):
        load_graph(json.dumps(document), saved[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["nodes"].pop(2),
        lambda document: document["nodes"][0].update(op="call_module"),
        lambda document: document["nodes"][0].update(target="x; import os"),
        lambda document: document["nodes"][0].pop("target"),
        lambda document: document.update(nodes=5),
        lambda document: document.update(schema=99),
        lambda document: document["inputs"][0].update(dtype="save"),
    ],
)
def test_damaged_graph_is_a_verification_error(saved: tuple[str, dict[str, np.ndarray]], change) -> None:
    document = json.loads(saved[0])
    change(document)
    with pytest.raises(VerificationError):
        load_graph(json.dumps(document), saved[1])


def test_text_that_is_not_json_and_missing_constants_are_verification_errors(
    saved: tuple[str, dict[str, np.ndarray]],
) -> None:
    with pytest.raises(VerificationError, match="not JSON"):
        load_graph("{", saved[1])
    with pytest.raises(VerificationError, match="missing"):
        load_graph(saved[0], {})
