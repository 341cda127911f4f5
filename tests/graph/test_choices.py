"""Blocks with alternatives in graphs: all branches, joined; one of them, and nothing left of the others."""

import pytest
import torch
from torch import nn

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.graph.blocks import find_stages
from haqnas.graph.choices import CHOOSE, choose_nodes, describe_choices, find_choices, settle, take_branches
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.resize import resize_input
from haqnas.graph.trace import trace
from haqnas.nn import Choice, MBConv, mbconv_choice
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.quantize import quantize
from haqnas.space.policy import Policy

INPUTS = (torch.rand(1, 3, 8, 8),)


def randomised(model: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 2)
            for values in (module.bias.data, module.running_mean):
                values.normal_()
    return model.eval()


class Net(nn.Module):
    """A batch norm, a sum and an activation after one block; another block in a block."""

    def __init__(self) -> None:
        super().__init__()
        deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)
        )
        inner = Choice(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), names=("small", "large"))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.norm = (
            Choice(nn.Conv2d(8, 8, 5, padding=2, bias=False), deep, nn.Identity()),
            nn.BatchNorm2d(8),
        )
        self.second = Choice(
            nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)), nn.Sequential(inner, nn.ReLU())
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.norm(self.first(x)))
        return self.head(self.second(x).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return randomised(Net())


@pytest.fixture(scope="module")
def graph(model):
    return normalise(trace(model, INPUTS, branches=True))


def test_a_choice_computes_its_first_branch_and_is_put_back_after_tracing(model):
    block, x = model.first, torch.rand(2, 8, 4, 4)
    trace(model, INPUTS, branches=True)
    assert torch.equal(block(x), block.branches[0](x))
    assert "forward" not in vars(block)


def test_without_branches_a_trace_is_that_of_the_first_ones(model):
    bare = randomised(Net())
    bare.load_state_dict(model.state_dict())
    bare.first, bare.second = bare.first.branches[0], bare.second.branches[0]
    ours, theirs = (normalise(trace(one, INPUTS)) for one in (model, bare))
    assert [node.op for node in ours.graph.nodes] == [node.op for node in theirs.graph.nodes]
    assert torch.equal(ours(*INPUTS)[0], theirs(*INPUTS)[0])


def test_all_branches_are_there_and_joined(graph):
    blocks = {block.path: block for block in find_choices(graph)}
    assert {path: block.names for path, block in blocks.items()} == {
        "first": ("Conv2d 5x5", "Sequential", "skip"),
        "second.branches.1.0": ("small", "large"),
        "second": ("Sequential", "Sequential #2"),
    }
    assert blocks["first"].layers == ("first.branches.0", "first.branches.1.0", "first.branches.1.3", "norm")
    assert set(blocks["second.branches.1.0"].layers) < set(blocks["second"].layers)
    assert len(list_layers(graph)) == 9


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize(("second", "inner"), [(0, 0), (1, 0), (1, 1)])
def test_one_branch_is_the_model_with_that_branch_alone(model, graph, first, second, inner):
    """To the bit, batch norms folded: one after a block, and in-place operators of branches that are gone."""
    alone = randomised(Net())
    alone.load_state_dict(model.state_dict())
    alone.second.branches[1][0] = alone.second.branches[1][0].branches[inner]
    alone.first, alone.second = alone.first.branches[first], alone.second.branches[second]
    found = take_branches(graph, {"first": first, "second": second, "second.branches.1.0": inner})
    wanted = normalise(trace(alone, INPUTS))
    assert not choose_nodes(found)
    assert len(list_layers(found)) == len(list_layers(wanted))
    assert torch.equal(found(*INPUTS)[0], wanted(*INPUTS)[0])


def test_settling_one_block_leaves_the_others_open(graph):
    found = settle(graph, {"first": 2})
    assert [block.path for block in find_choices(found)] == ["second.branches.1.0", "second"]
    assert settle(graph, {}) is graph
    assert take_branches(take_branches(graph)).graph is not None


def test_a_graph_with_branches_can_be_traced_again(graph):
    again = normalise(trace(graph, INPUTS, branches=True))
    assert [block.names for block in find_choices(again)] == [block.names for block in find_choices(graph)]
    assert torch.equal(again(*INPUTS)[0], graph(*INPUTS)[0])
    assert not choose_nodes(trace(graph, INPUTS))


def test_another_resolution_and_blocks_that_hold_a_choice(graph):
    smaller = resize_input(graph, 4)
    assert smaller is not None
    assert all(node.meta["val"].shape[2] == 4 for node in choose_nodes(smaller))
    assert [[block.layers for block in stage] for stage in find_stages(graph)] == [
        [find_choices(graph)[0].layers]
    ]


def test_a_skip_is_no_stage_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), mbconv_choice(8, 8), nn.Conv2d(8, 4, 1)).eval()
    graph = normalise(trace(model, INPUTS, branches=True))
    assert find_stages(graph) == ()
    (block,) = find_choices(graph)
    assert block.names == ("k3 e3", "k5 e3", "k7 e3", "k3 e6", "k5 e6", "k7 e6", "skip")
    assert len(block.layers) == 18
    assert mbconv_choice(8, 16, 2).names[-1] == "k7 e6"
    assert MBConv(8, 16, 5, 3, 2)(torch.rand(2, 8, 9, 9)).shape == (2, 16, 5, 5)


def test_a_module_that_is_called_twice_is_one_block():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Choice(nn.Conv2d(3, 3, 1), nn.Identity())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(torch.relu(self.block(x)))

    graph = normalise(trace(Twice().eval(), INPUTS, branches=True))
    assert len(choose_nodes(graph)) == 2
    (block,) = find_choices(graph)
    assert block.layers == ("block.branches.0",)
    assert [node.op for node in take_branches(graph, {"block": 1}).graph.nodes] == [
        "placeholder",
        "call_function",
        "output",
    ]


def test_a_note_tells_what_is_not_searched(model):
    assert describe_choices(model).startswith("3 haqnas.nn.Choice get their first branches")
    assert describe_choices(nn.Sequential(Choice(nn.ReLU(), nn.Identity()))).startswith(
        "1 haqnas.nn.Choice gets"
    )
    assert describe_choices(nn.ReLU()) == ""


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 3, 3),
        nn.Sequential(nn.Flatten()),
        nn.MaxPool2d(2, return_indices=True),
    ],
)
def test_branches_of_other_shapes_are_refused_with_path_names_and_shapes(other):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Choice(nn.Conv2d(3, 3, 1), other)).eval()
    with pytest.raises(
        UnsupportedModelError, match=r"(?s)of '1' give\n  0 'Conv2d 1x1': float32 \(1, 3, 8, 8\)\n  1 '"
    ):
        trace(model, INPUTS, branches=True)
    trace(model, INPUTS)  # what is not searched may be anything


@pytest.mark.parametrize(
    ("branches", "names", "message"),
    [
        ((nn.ReLU(),), None, "at least 2 branches, but got 1"),
        ((nn.ReLU(), torch.relu), None, "branches of a haqnas.nn.Choice are modules, but one is a"),
        ((nn.ReLU(), nn.Identity()), ("a", "a"), "all different"),
        ((nn.ReLU(), nn.Identity()), ("a",), "one for each of its 2 branches"),
        ((nn.ReLU(), nn.Identity()), ("a|b", "c"), r"without '\|'"),
    ],
)
def test_what_is_no_choice(branches, names, message):
    with pytest.raises(ConfigurationError, match=message):
        Choice(*branches, names=names)


def test_branches_have_names_that_differ():
    assert Choice(nn.ReLU(), nn.ReLU(), nn.Identity(), nn.ReLU()).names == (
        "ReLU",
        "ReLU #2",
        "skip",
        "ReLU #3",
    )


def test_an_open_block_is_not_quantized(graph):
    with pytest.raises(
        ConfigurationError, match=r"'first' is a haqnas.nn.Choice of Conv2d 5x5, Sequential, skip"
    ):
        quantize(graph, Policy(QuantSpec(8, 8)))


def test_joined_branches_have_one_shape():
    with pytest.raises(RuntimeError, match="different shapes"), torch.device("meta"):
        CHOOSE([torch.empty(1), torch.empty(2)], "block", "a|b")
