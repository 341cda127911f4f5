"""The stages as torch.fx passes: in a PassManager, stage by stage, with inputs unchanged and notes of nodes kept."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint

from haqnas.errors import ConfigurationError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.passes import CalibratePass, IntegerizePass, NormalisePass, QuantizePass
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy
from tests.passes.networks import images, joined, joined_inputs, small


@dataclass(frozen=True)
class Case:
    model: nn.Module
    batch: tuple[Tensor, ...]

    @property
    def example(self) -> tuple[Tensor, ...]:
        return tuple(part[:1] for part in self.batch)

    def passes(self, bits: str = "w4a8") -> list:
        return [
            NormalisePass(self.example),
            QuantizePass(bits),
            CalibratePass([self.batch]),
            IntegerizePass(),
        ]

    def by_stages(self, bits: str = "w4a8") -> fx.GraphModule:
        canonical = normalise(trace(self.model, self.example))
        return integerize(calibrate(quantize(canonical, Policy(QuantSpec.parse(bits))), [self.batch]))


CASES = {
    "small": lambda: Case(small(), (images(16, 1, 6, 6),)),
    "joined": lambda: Case(joined(), joined_inputs(16)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def tensors(result: Tensor | tuple[Tensor, ...]) -> list[bytes]:
    return [part.numpy().tobytes() for part in (result if isinstance(result, tuple) else (result,))]


SOURCES: dict[str, Callable[[Case], fx.GraphModule]] = {
    "symbolic_trace": lambda case: fx.symbolic_trace(case.model),
    "export": lambda case: torch.export.export(case.model, case.example).module(),
    "haqnas": lambda case: trace(case.model, case.example),
}


@pytest.mark.parametrize("source", SOURCES)
def test_pass_manager_gives_the_integer_graph_of_the_stages(case: Case, source: str) -> None:
    manager = PassManager(case.passes(), run_checks_after_each_pass=True)
    manager.add_checks(lambda module: module.graph.lint())
    result = manager(SOURCES[source](case))
    assert result.modified
    assert any(str(node.target).startswith("haqnas.") for node in result.graph_module.graph.nodes)
    assert tensors(result.graph_module(*case.batch)) == tensors(case.by_stages()(*case.batch))


def test_passes_leave_their_input_unchanged(case: Case) -> None:
    module: fx.GraphModule = fx.symbolic_trace(case.model)
    for step in case.passes():
        before = str(module.graph), {name: value.clone() for name, value in module.state_dict().items()}
        meta = [dict(node.meta) for node in module.graph.nodes]
        result = step(module)
        assert isinstance(result, PassResult)
        assert result.graph_module is not module
        assert str(module.graph) == before[0]
        assert all(torch.equal(value, before[1][name]) for name, value in module.state_dict().items())
        assert meta == [dict(node.meta) for node in module.graph.nodes]
        module = result.graph_module


def test_notes_of_nodes_come_through_all_passes(case: Case) -> None:
    module = torch.export.export(case.model, case.example).module()
    for node in module.graph.nodes:
        node.meta["custom"] = {"mark": node.name}
    marks = {node.name for node in module.graph.nodes}
    inputs = {node.name for node in module.graph.nodes if node.op == "placeholder"}
    for step in case.passes():
        module = step(module).graph_module
        for node in module.graph.nodes:
            if node.op in {"call_module", "call_function", "placeholder"}:
                assert node.meta["custom"]["mark"] in marks, (type(step).__name__, node)
            if node.op in {"call_module", "call_function"} and node.meta["custom"]["mark"] not in inputs:
                assert "in forward" in node.meta["stack_trace"]
                assert node.meta["nn_module_stack"]


def test_passes_of_the_user_run_between_ours() -> None:
    case = CASES["small"]()
    seen = []

    def count_layers(module: fx.GraphModule) -> PassResult:
        seen.append(sum(node.op == "call_module" for node in module.graph.nodes))
        return PassResult(fx.GraphModule(module, module.graph), False)

    normalised, *others = case.passes()
    manager = PassManager([*others, count_layers, normalised])
    order = [normalised, count_layers, *others]
    for one, other in pairwise(order):
        manager.add_constraint(this_before_that_pass_constraint(one, other))
    integer = manager(fx.symbolic_trace(case.model)).graph_module
    assert seen == [2]
    assert tensors(integer(*case.batch)) == tensors(case.by_stages()(*case.batch))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (QuantizePass(), "NormalisePass first"),
        (CalibratePass([]), "QuantizePass before"),
        (IntegerizePass(), "QuantizePass before"),
    ],
)
def test_a_pass_out_of_order_says_which_comes_first(step, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        step(fx.symbolic_trace(small()))


def test_a_graph_without_calibration_is_refused() -> None:
    case = CASES["small"]()
    normalised, quantized, _, integerized = case.passes()
    with pytest.raises(Exception, match="IntegerizePass") as caught:  # PassManager's own
        PassManager([normalised, quantized, integerized])(fx.symbolic_trace(case.model))
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert "run CalibratePass before" in str(caught.value.__cause__)


def test_a_finished_graph_is_refused() -> None:
    case = CASES["small"]()
    with pytest.raises(ConfigurationError, match="haqnas"):
        QuantizePass()(case.by_stages())


def test_bits_to_be_searched_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'auto'.*haqnas\.compile"):
        QuantizePass("auto")
