"""Architecture and bits searched together: prices, warm starts, degenerate spaces, and whole compilations."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import haqnas
from haqnas import bit_trials, compilation, joint_stage, train_stage
from haqnas.artifact import Artifact
from haqnas.bit_prices import price_graphs, time_source
from haqnas.codegen.link import choose_linker
from haqnas.devices.local import read_host_cpu
from haqnas.elastic_prices import price_space
from haqnas.errors import ConfigurationError, InfeasibleBudgetError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import profile_path
from haqnas.joint_goal import JointGoal, first_joint_actions, is_reachable, what_limits_need
from haqnas.latency_table import read_table
from haqnas.quantspec import QuantSpec
from haqnas.search.ilp import Budget, Problem
from haqnas.search_data import search_split
from haqnas.space.architecture import Architecture, KnobKind
from haqnas.space.elastic import searched_space
from haqnas.space.knobs import WIDEST, Rules, derive_space
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from tests.measured import PROFILES

SPECS = tuple(map(QuantSpec.parse, ("w8a8", "w4a8", "w2a8")))
TARGET = "cortex-a76"
OPTIONS = {
    "target": TARGET,
    "device": "table",
    "architecture": "auto",
    "latency_budget": "60%",
    "trials": 8,
    "compare": False,
    "formats": ("a",),
}


class Block(nn.Module):
    """x + f(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    """Two blocks that may go, and widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


INPUTS = (torch.rand(1, 3, 8, 8),)


def data(count: int = 64) -> TensorDataset:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(images, torch.arange(count) % 4)


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory):
    canonical = normalise(trace(network(), INPUTS))
    table = read_table(profile_path(TARGET, read_host_cpu()))
    folder = tmp_path_factory.mktemp("work")
    source = time_source(PROFILES[TARGET], table, None, choose_linker(PROFILES[TARGET].triple), folder, {})
    price = lambda graphs: price_graphs(graphs, SPECS, source, "net", folder, print)  # noqa: E731
    (whole,) = price([(canonical, INPUTS)])
    return canonical, price_space(canonical, searched_space(canonical), whole, price, print)


def goal_of(elastic, share=None) -> JointGoal:
    canonical, prices = elastic
    whole = prices.of(Architecture())
    space = derive_space(canonical, SPECS, Rules())
    losses = {name: {spec: float(8 - spec.weight_bits) for spec in SPECS} for name in whole.prices.layers}
    problem = Problem(space, losses, whole.prices, whole.model, whole.sizes, whole.fixed_bytes)
    limit = Budget() if share is None else Budget(latency=share * problem.latency(Policy(WIDEST)))
    return JointGoal(problem, limit, 0.01 if share is None else None, prices, losses)


def random_action(goal: JointGoal, rng: random.Random):
    return tuple(rng.randrange(len(decision.options)) for decision in goal.decisions())


def test_both_agents_decide_and_meet_in_pairs(elastic):
    goal = goal_of(elastic, 0.6)
    decisions = goal.decisions()
    assert {decision.agent for decision in decisions} == {"ARCH", "QUANT"}
    assert not any(knob.kind is KnobKind.RESOLUTION for knob in goal.shapes)
    first = len(goal.shapes)
    across = {(decisions[a].name, decisions[b].name) for a, b in goal.pairs if a < first <= b}
    assert ("width:blocks.0.conv1", "blocks.0.conv1") in across
    assert ("depth:blocks.0.conv1", "blocks.1.conv2") in across


def test_prices_of_actions_are_those_of_the_architecture_and_its_bits(elastic):
    goal, rng = goal_of(elastic, 0.6), random.Random(0)
    for _ in range(50):
        action = random_action(goal, rng)
        architecture, policy = goal.architecture(action), goal.policy(action)
        found = elastic[1].of(architecture)
        assert set(policy.layers) == set(found.prices.layers)
        assert goal.latency(action) == pytest.approx(found.prices.price(policy, found.model))
        assert goal.joint_action(architecture, policy)[: len(goal.shapes)] == action[: len(goal.shapes)]


def test_a_budget_closes_what_is_far_below_it(elastic):
    """The fewest of a quarter, half, three quarters, all of the smaller choices that leave something within."""
    _, prices = elastic
    whole = prices.of(Architecture())
    uniform = Policy(WIDEST)
    int8 = whole.prices.price(uniform, whole.model)
    sizes = []
    for share in (2.0, 0.7, 0.5, 0.1):
        kept = what_limits_need(prices, Budget(latency=share * int8))
        sizes.append(kept.space.size)
        found = kept.of(kept.space.least)
        is_within = found.prices.price(uniform, found.model) <= 0.8 * share * int8
        assert is_within or kept.space == prices.space
        assert kept.space.identity == prices.space.identity
    assert sizes == sorted(sizes)
    assert 1 < sizes[0] < sizes[-1] == prices.space.size
    assert what_limits_need(prices, Budget()) is prices
    assert what_limits_need(prices, Budget(size_bytes=1)) is prices


def test_a_warm_start_is_within_budget_and_holds_several_architectures(elastic):
    for share in (0.5, 0.8, None):
        goal = goal_of(elastic, share)
        sensitivity = Sensitivity("gradient", 1, goal.problem.losses, {})
        actions = first_joint_actions(goal, sensitivity, 100)
        assert len({action[: len(goal.shapes)] for action in actions}) > 2
        assert max(map(goal.price, actions)) <= 1


def test_what_can_be_reached(elastic):
    assert is_reachable(goal_of(elastic, 0.5))
    assert not is_reachable(goal_of(elastic, 0.001))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One cache of prices for all."""
    return {**OPTIONS, "cache_folder": tmp_path_factory.mktemp("cache")}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, options) -> Artifact:
    folder = tmp_path_factory.mktemp("compiled")
    return haqnas.compile(network(), INPUTS, output=folder / "out", train_data=data(), **options)


def test_a_smaller_network_ships(artifact):
    manifest = artifact.manifest
    assert manifest.search.strategy == "marl"
    assert manifest.search.num_policies == 8
    assert set(manifest.search.credit) == {"ARCH", "QUANT"}
    (latency,) = [one for one in manifest.constraints if one.name == "latency"]
    assert latency.is_met
    assert latency.found == pytest.approx(
        manifest.search.predicted_latency / manifest.search.int8_latency, rel=0.01
    )
    chosen = Architecture.from_json((artifact.directory / "architecture.json").read_text())
    assert chosen.choices == manifest.architecture
    canonical = normalise(trace(network(), INPUTS))
    searched_space(canonical).check(chosen)
    assert chosen.choices != searched_space(canonical).identity.choices  # bits alone do not reach 60 %
    policy = Policy.from_json((artifact.directory / "policy.json").read_text())
    assert set(policy.layers) == {row.name for row in manifest.layers if row.requested}
    artifact.verify()


def test_the_same_request_again_returns_at_once(artifact, options):
    again = haqnas.compile(network(), INPUTS, output=artifact.directory, train_data=data(), **options)
    assert again.manifest == artifact.manifest


def test_shared_weights_and_the_chosen_network_are_trained(tmp_path: Path, options, monkeypatch):
    """The weights on what the search is not judged on, the answer by the whole network."""
    seen: dict[str, Any] = {}
    real_supernet, real_tuning = joint_stage.train_supernet, train_stage.fine_tune

    def supernet(canonical, space, train_data, *rest):
        seen["data"] = train_data
        return real_supernet(canonical, space, train_data, *rest)

    def tuning(*arguments, teacher):
        seen["student"], seen["teacher"] = arguments[1], teacher
        return real_tuning(*arguments, teacher=teacher)

    monkeypatch.setattr(joint_stage, "train_supernet", supernet)
    monkeypatch.setattr(train_stage, "fine_tune", tuning)
    notes: list[str] = []
    asked = {**options, "supernet_epochs": 2.0, "qat_epochs": 1.0, "trials": 4}
    first, second = (
        haqnas.compile(
            *(network(), INPUTS),
            output=tmp_path / place,
            train_data=data(),
            progress=lambda progress: notes.append(progress.note),
            **asked,
        )
        for place in ("first", "second")
    )
    assert any(note.startswith("supernet: epoch") for note in notes)
    judged_on = set(search_split(data(), 0).indices)
    assert judged_on
    assert set(seen["data"].indices) == set(range(len(data()))) - judged_on
    weights = {name: tuple(value.shape) for name, value in seen["teacher"].named_parameters()}
    whole = normalise(trace(network(), INPUTS))
    assert weights == {name: tuple(value.shape) for name, value in whole.named_parameters()}
    assert weights != {name: tuple(value.shape) for name, value in seen["student"].named_parameters()}
    assert first.manifest.training.num_steps > 0
    packed = [[row.weights_sha256 for row in one.manifest.layers] for one in (first, second)]
    assert packed[0] == packed[1]  # epochs give the same network again
    first.verify()


def test_a_killed_run_goes_on_with_its_shared_weights_and_its_answer(tmp_path: Path, options, monkeypatch):
    asked = {**options, "supernet_epochs": 1.0, "trials": 4}

    def go() -> Artifact:
        return haqnas.compile(network(), INPUTS, output=tmp_path / "out", train_data=data(), **asked)

    def die(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(compilation, "build_to_ship", die)
        with pytest.raises(RuntimeError, match="killed"):
            go()
    (answer,) = (tmp_path / "out" / ".state").rglob("search.json")
    chosen = json.loads(json.loads(answer.read_text())["architecture"])["choices"]
    with monkeypatch.context() as patch:
        patch.setattr(joint_stage, "train_supernet", die)
        patch.setattr(bit_trials, "search_by_trials", die)
        assert dict(go().manifest.architecture) == chosen


def test_uniform_int8_of_the_whole_network_is_what_it_is_compared_with(tmp_path: Path, options):
    artifact = haqnas.compile(
        *(network(), INPUTS),
        output=tmp_path / "out",
        train_data=data(),
        **{**options, "compare": True, "trials": 4},
    )
    baseline = artifact.manifest.baseline
    assert len(baseline.uniform.bits) == 6
    assert baseline.shipped == "requested"
    assert baseline.comparison.ratio <= 0.61
    assert len(baseline.requested.bits) <= 6


def test_a_budget_that_nothing_meets_is_refused_with_what_can_be_reached(tmp_path: Path, options):
    with pytest.raises(InfeasibleBudgetError, match=r"latency reaches down to .*% of uniform int8"):
        haqnas.compile(
            *(network(), INPUTS),
            output=tmp_path / "out",
            train_data=data(),
            **{**options, "latency_budget": "0.01%"},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "ilp"}, "ilp chooses bits alone"),
        ({"bits": "8"}, "goes with --bits auto only"),
        ({"architecture": "small"}, "--architecture is auto"),
        ({"architecture": None, "supernet_time_s": 5.0}, "add --architecture auto"),
        ({"supernet_time_s": -1.0}, r"--supernet-time \(time_s\) of a SupernetRecipe must be at least 0"),
        (
            {"supernet_epochs": 0.0},
            r"--supernet-epochs \(epochs\) of a SupernetRecipe must be greater than 0",
        ),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        haqnas.compile(network(), INPUTS, output=tmp_path, **{**OPTIONS, **changes})


def test_a_network_without_free_architecture_says_so(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="nothing of this network's architecture"):
        haqnas.compile(nn.Linear(8, 4).eval(), (torch.rand(1, 8),), output=tmp_path, **OPTIONS)
