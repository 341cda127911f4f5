"""haqnas.nn.Choice from the model to the artefact: prices of operators, the joint game, whole compilations."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import haqnas
from haqnas.bit_prices import TimeSource, price_graphs
from haqnas.cli.main import run
from haqnas.devices.local import read_host_cpu
from haqnas.elastic_prices import ElasticPrices, noise, price_space
from haqnas.elastic_shapes import covering, operator_settings
from haqnas.graph.choices import take_branches
from haqnas.graph.layers import list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import profile_path
from haqnas.joint_goal import JointGoal, first_joint_actions, is_reachable, least_amounts, problem_for
from haqnas.latency_table import read_table
from haqnas.nn import Choice
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.specialise import specialise
from haqnas.search.ilp import Budget, reach
from haqnas.space.architecture import Architecture, KnobKind
from haqnas.space.elastic import searched_space
from haqnas.space.knobs import WIDEST, Rules, derive_space
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from tests.measured import PROFILES

TARGET = "cortex-a76"
SPECS = tuple(map(QuantSpec.parse, ("w8a8", "w4a4")))
INPUTS = (torch.rand(1, 3, 8, 8),)


def separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1, bias=False),
        nn.BatchNorm2d(16),
    )


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))


class Net(nn.Module):
    """A block of three operators, whose sum with its input may be fused with it or not, and one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.first = Choice(plain(), separable(), nn.Identity(), names=("conv", "separable", "skip"))
        self.second = Choice(plain(), separable(), names=("conv", "separable"))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.first(x))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def data(count: int = 64) -> TensorDataset:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(images, torch.arange(count) % 4)


@pytest.fixture(scope="module")
def price(tmp_path_factory: pytest.TempPathFactory):
    source = TimeSource(PROFILES[TARGET], read_table(profile_path(TARGET, read_host_cpu())), None)
    folder = tmp_path_factory.mktemp("work")
    return lambda graphs: price_graphs(graphs, SPECS, source, "net", folder, print)


@pytest.fixture(scope="module")
def branching():
    return normalise(trace(network(), INPUTS, branches=True))


@pytest.fixture(scope="module")
def elastic(branching, price) -> ElasticPrices:
    (whole,) = price([(take_branches(branching), INPUTS)])
    return price_space(branching, searched_space(branching), whole, price, print)


def test_few_architectures_show_every_operator(branching, elastic):
    space, shapes = elastic.space, elastic.shapes
    assert {knob.kind for knob in space.knobs} == {KnobKind.OPERATOR, KnobKind.DEPTH, KnobKind.WIDTH}
    names = {layer.name for layer in list_layers(branching)}
    settings = operator_settings(space, shapes)
    assert settings[0] == space.identity.choices
    assert len(settings) == 2  # the skip has no layers
    assert names == set().union(
        *(
            {layer.name for layer in list_layers(specialise(branching, space, Architecture(one)))}
            for one in settings
        )
    )
    assert len(covering(space, shapes)) < 10 < space.size


def test_prices_are_those_of_the_architecture_alone(branching, elastic, price):
    rng = random.Random(0)
    errors = []
    for first in (0, 1, 2):
        chosen = {knob.name: rng.choice(knob.choices) for knob in elastic.space.knobs}
        architecture = Architecture({**chosen, "operator:first": first})
        graph = specialise(branching, elastic.space, architecture)
        (own,) = price([(graph, noise(graph))])
        found = elastic.of(architecture)
        assert found.sizes == own.sizes  # nothing of the other operators
        assert found.prices.layers.keys() == own.prices.layers.keys()
        for _ in range(8):
            policy = Policy(WIDEST, {name: rng.choice(SPECS) for name in own.sizes})
            ours, theirs = (one.prices.price(policy, one.model) for one in (found, own))
            errors.append(abs(ours / theirs - 1))
    assert sum(errors) / len(errors) < 0.02
    assert max(errors) < 0.05


def goal_of(branching, elastic, share: float | None) -> JointGoal:
    space = derive_space(branching, SPECS, Rules())
    losses = {knob.name: {spec: float(8 - spec.weight_bits) for spec in SPECS} for knob in space.knobs}
    problem = problem_for(space, losses, elastic.of(Architecture()))
    limit = Budget() if share is None else Budget(latency=share * problem.latency(Policy(WIDEST)))
    return JointGoal(problem, limit, 0.01 if share is None else None, elastic, losses)


def test_actions_say_operators_by_name_and_cost_what_the_architecture_does(branching, elastic):
    goal, rng = goal_of(branching, elastic, 0.6), random.Random(0)
    decisions = {decision.name: decision for decision in goal.decisions()}
    assert decisions["operator:first"].options == ("conv", "separable", "skip")
    assert decisions["operator:first"].agent == "ARCH"
    for _ in range(30):
        action = tuple(rng.randrange(len(decision.options)) for decision in goal.decisions())
        architecture, policy = goal.architecture(action), goal.policy(action)
        found = elastic.of(architecture)
        assert set(policy.layers) == set(found.prices.layers)
        assert goal.latency(action) == pytest.approx(found.prices.price(policy, found.model))
        assert goal.loss(action) == pytest.approx(
            sum(8.0 - spec.weight_bits for spec in policy.layers.values())
        )


def test_the_whole_network_costs_nothing_of_other_operators(branching, elastic):
    goal = goal_of(branching, elastic, None)
    found = elastic.of(Architecture())
    assert goal.int8_latency == pytest.approx(found.prices.price(Policy(WIDEST), found.model))
    assert not any(name.startswith(("first.branches.1", "second.branches.1")) for name in found.sizes)
    assert goal.loss((0,) * len(goal.decisions())) == 0.0


def test_what_can_be_reached_is_of_the_cheapest_operators(branching, elastic):
    goal = goal_of(branching, elastic, 0.5)
    everything = [
        goal.problem_at(
            Architecture({**elastic.space.least.choices, "operator:first": first, "operator:second": second})
        )
        for first in (0, 1, 2)
        for second in (0, 1)
    ]
    spans = [reach(problem) for problem in everything]
    assert least_amounts(goal) == (
        min(one.latency[0] for one in spans),
        min(one.size_bytes[0] for one in spans),
    )
    assert is_reachable(goal)
    assert not is_reachable(goal_of(branching, elastic, 0.001))


def test_a_warm_start_holds_several_operators(branching, elastic):
    goal = goal_of(branching, elastic, 0.7)
    sensitivity = Sensitivity("gradient", 1, goal.losses, {})
    actions = first_joint_actions(goal, sensitivity, 100)
    assert len({goal.architecture(action).choices["operator:first"] for action in actions}) > 1
    assert max(map(goal.price, actions)) <= 1


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "target": TARGET,
        "device": "table",
        "compare": False,
        "formats": ("a",),
        "cache_folder": tmp_path_factory.mktemp("cache"),
    }


def test_an_operator_is_searched_and_ships(tmp_path: Path, options):
    artifact = haqnas.compile(
        *(network(), INPUTS),
        output=tmp_path / "out",
        train_data=data(),
        **{**options, "architecture": "auto", "latency_budget": "50%", "trials": 6, "supernet_epochs": 1.0},
    )
    manifest = artifact.manifest
    document = json.loads((artifact.directory / "architecture.json").read_text())
    assert Architecture.from_json(json.dumps(document)).choices == manifest.architecture
    names = {"operator:first": ("conv", "separable", "skip"), "operator:second": ("conv", "separable")}
    chosen = {knob: labels[manifest.architecture[knob]] for knob, labels in names.items()}
    assert document["operators"] == manifest.operators == chosen
    layers = {row.name for row in manifest.layers if row.requested}
    for block in ("first", "second"):
        branch = manifest.architecture[f"operator:{block}"]
        found = {name.split(".")[2] for name in layers if name.startswith(f"{block}.branches")}
        assert found == (set() if chosen[f"operator:{block}"] == "skip" else {str(branch)})
    (latency,) = [one for one in manifest.constraints if one.name == "latency"]
    assert latency.is_met
    artifact.verify()


def test_without_a_search_of_architectures_the_first_branches_ship_and_that_is_said(tmp_path: Path, options):
    notes: list[str] = []

    def compiled(model: nn.Module, place: str):
        return haqnas.compile(
            *(model, INPUTS),
            output=tmp_path / place,
            train_data=data(),
            progress=lambda progress: notes.append(progress.note),
            **{**options, "bits": "w4a8"},
        )

    marked = network()
    bare = network()
    bare.first, bare.second = bare.first.branches[0], bare.second.branches[0]
    ours = compiled(marked, "marked").manifest
    assert [note for note in notes if "haqnas.nn.Choice" in note] == [
        "2 haqnas.nn.Choice get their first branches; --architecture auto searches all of them"
    ]
    theirs = compiled(bare, "bare").manifest
    assert ours.sizes == theirs.sizes
    assert [row.weights_sha256 for row in ours.layers] == [row.weights_sha256 for row in theirs.layers]
    assert ours.operators is None


MODEL_FILE = """
import torch
from torch import nn
from haqnas.nn import Choice

def build_model():
    block = Choice(nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 8, 1), nn.Identity())
    return nn.Sequential(nn.Conv2d(3, 8, 3), block, nn.Flatten(), nn.Linear(8 * 36, 4))

def example_inputs():
    return (torch.rand(1, 3, 8, 8),)
"""


def test_inspect_shows_operators_by_name(tmp_path: Path, capfd):
    path = tmp_path / "model.py"
    path.write_text(MODEL_FILE)
    assert run(["inspect", str(path), "--space", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    (knob,) = [knob for knob in document["knobs"] if knob["kind"] == "operator"]
    assert knob["labels"] == ["Conv2d 5x5", "Conv2d 1x1", "skip"]
    assert (knob["name"], knob["choices"]) == ("operator:1", [0, 1, 2])
    assert document["macs"] == 36 * (3 * 8 * 9 + 8 * 8 * 25 + 8 * 4)
    assert document["macs"] - knob["least_macs"] == 36 * 8 * 8 * 25
    assert run(["inspect", str(path), "--space"]) == 0
    assert "Conv2d 5x5, Conv2d 1x1, skip" in capfd.readouterr().out
