"""The stage that settles bits: budgets that are met and budgets that cannot be, accuracy, and what is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from haqnas import bit_prices, search_data
from haqnas.bit_search import DEFAULT_MAX_DROP, Judge, Own, Search, search_bits
from haqnas.bit_stage import choose_bits, given_policy, legal_bits
from haqnas.budgets import Limit
from haqnas.codegen.lower import lower
from haqnas.errors import ConfigurationError, InfeasibleBudgetError
from haqnas.evaluate import sample_batches
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import check_options
from haqnas.pricing import Cost, LayerPrices
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.calibrate import calibrate
from haqnas.rewrite.integerize import integerize
from haqnas.rewrite.ptq import quantize_without_training
from haqnas.rewrite.quantize import quantize
from haqnas.search.ilp import Budget
from haqnas.search_data import Given, make_judge, search_split
from haqnas.settings import Settings
from haqnas.space.knobs import WIDEST
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity
from tests.search.problems import made_up_problem

MODEL = Path(__file__).resolve().parents[1] / "examples" / "digits.py"
TARGET = "arm-cpu"  # by its table, w2a4 takes 0.85 of the instructions of w8a8 in this network
VERSIONS = {"haqnas_source": "test", "apache-tvm": "test"}


@pytest.fixture(scope="module")
def digits():
    loaded = load_model(MODEL)
    canonical = normalise(trace(loaded.model, loaded.example_inputs))
    train_data = loaded.train_data()
    batches = sample_batches(train_data, "train_data", loaded.example_inputs, np.random.default_rng(0))[:4]
    return Given(loaded.model, canonical, loaded.example_inputs, batches, "train_data", train_data, None)


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def choose(digits, caches, tmp_path):
    """choose_bits with options, by the table of the target."""

    def call(given=digits, work=tmp_path, note=lambda *_: None, **options):
        checked = check_options("digits", Settings(target=TARGET, device="table", **options))
        policy = given_policy(checked, given.canonical)
        work.mkdir(exist_ok=True)
        return choose_bits(checked, policy, given, work, caches, VERSIONS, note)

    return call


def program_of(digits, policy):
    checked = check_options("digits", Settings(target=TARGET, device="table"))
    graph = integerize(calibrate(quantize(digits.canonical, policy), digits.batches))
    return lower(graph, checked.profile, "digits")


# Budgets that can be met, and those that cannot


def test_a_size_budget_is_met_to_the_byte_of_the_program(digits, choose):
    chosen = choose(size_budget="50%")
    record = chosen.search
    assert record.packed_weight_bytes <= 0.5 * record.int8_weight_bytes
    assert record.packed_weight_bytes == program_of(digits, chosen.policy).packed_weight_bytes
    assert record.int8_weight_bytes == program_of(digits, Policy(WIDEST)).packed_weight_bytes
    assert record.predicted_loss > record.int8_loss


def test_a_latency_budget_is_met_by_prices(choose):
    record = choose(latency_budget="90%").search
    assert record.predicted_latency <= 0.9 * record.int8_latency
    assert (record.unit, record.drop, record.num_policies) == ("instructions", None, 0)


def test_the_loosest_budget_keeps_eight_bits(choose):
    chosen = choose(latency_budget="100%", size_budget="100%")
    assert {chosen.policy.spec_of(name) for name in chosen.policy.layers} == {WIDEST}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latency_budget": "40%"}, r"--latency-budget 40% cannot be met: latency reaches from 8\d\.\d% to"),
        (
            {"size_budget": "1KiB"},
            r"--size-budget 1KiB cannot be met: packed weights reach from 3\d\.\d% to 100",
        ),
        ({"size_budget": "50%", "pin": ("body*=8",)}, r"--size-budget 50% cannot be met"),
        ({"latency_budget": "86%", "size_budget": "36%", "exclude": ("down*",)}, "cannot be met"),
    ],
)
def test_a_budget_out_of_reach_is_refused_before_accuracy_is_looked_at(choose, monkeypatch, options, words):
    def fail(*_args, **_options):
        raise AssertionError("expensive work")

    monkeypatch.setattr(search_data, "estimate_loss", fail)
    with pytest.raises(InfeasibleBudgetError, match=words):
        choose(**options)


def test_a_time_budget_where_only_instructions_are_counted_is_told(choose):
    with pytest.raises(ConfigurationError, match=r"5ms: the device of arm-cpu counts .* such as 60%"):
        choose(latency_budget="5ms")


def test_a_time_budget_of_several_threads_is_told(choose):
    with pytest.raises(ConfigurationError, match=r"of one thread, so with --threads 2 give a share"):
        choose(latency_budget="5ms", threads=2)


# Accuracy


def test_a_drop_is_read_on_the_search_split_with_a_budget(choose):
    record = choose(size_budget="60%", max_drop=0.05).search
    assert record.num_policies == 1
    assert record.judged_on == "648 samples of train_data"
    assert -0.05 < record.drop < 0.05


def test_without_budgets_the_fastest_policy_within_the_drop_is_found(choose):
    record = choose(strategy="ilp").search
    assert record.drop <= DEFAULT_MAX_DROP
    assert record.predicted_latency < 0.95 * record.int8_latency
    assert record.num_policies >= 1


def test_without_training_data_agreement_judges(digits, choose):
    record = choose(given=replace(digits, train_data=None), max_drop=0.5).search
    assert record.judged_on == "agreement on train_data"
    assert 0 <= record.drop <= 0.5


def test_the_users_own_score_judges_on_the_search_split(digits):
    seen = []

    def evaluate(model, data):
        seen.append(len(data))
        return 0.75 if model is digits.model else 0.5

    judge = make_judge(replace(digits, evaluate=evaluate), 0)
    assert judge.drop_of(Policy(QuantSpec(4, 8))) == pytest.approx(0.25)
    assert judge.drop_of(Policy(WIDEST)) == pytest.approx(0.25)
    assert seen == [648, 648, 648]  # the float model is scored once


def test_policies_are_judged_as_they_will_be_quantized(digits, monkeypatch):
    methods = []

    def quantized(canonical, policy, batches, method):
        methods.append(method)
        return quantize_without_training(canonical, policy, batches)

    monkeypatch.setattr(search_data, "quantize_without_training", quantized)
    make_judge(replace(digits, ptq="gptq"), 0).drop_of(Policy(WIDEST))
    assert methods == ["gptq"]


def test_the_search_split_is_a_seeded_part_of_the_training_data(digits):
    first, again, other = (search_split(digits.train_data, seed) for seed in (0, 0, 1))
    assert first.indices == again.indices != other.indices
    assert len(set(first.indices)) == len(digits.train_data) // 2


def halving_search(monkeypatch, seed, limit):
    """`search_bits` over a made-up problem where the drop is the loss; gives what was found and the problem."""
    problem = made_up_problem(seed, 6, 0)
    narrower = {spec: 1 - 0.2 * index for index, spec in enumerate(problem.space.specs)}
    layers = {
        name: {spec: Cost(100 * share, 1) for spec, share in narrower.items()} for name in problem.losses
    }
    problem = replace(problem, prices=LayerPrices(layers, (), {}))
    losses = {
        name: {spec: abs(row[spec]) * (1 - share) for spec, share in narrower.items()}
        for name, row in problem.losses.items()
    }
    problem = replace(problem, losses=losses)
    monkeypatch.setattr("haqnas.bit_search.problem_of", lambda _search, _losses: problem)
    monkeypatch.setattr("haqnas.bit_search.lowered", lambda _search, policy: Own(problem.latency(policy), 0))
    budgets = type("Budgets", (), {"max_drop": limit})()
    prices = type("Prices", (), {"unit": "s", "source": "made up"})()
    search = Search(problem.space, prices, budgets, None, None)
    found = search_bits(
        search,
        Budget(),
        Sensitivity("gradient", 1, losses, {}),
        Judge(problem.loss, float, "loss"),
        lambda _: None,
    )
    return found, problem


@pytest.mark.parametrize("seed", range(4))
def test_halving_comes_near_the_fastest_policy_within_the_drop(monkeypatch, seed):
    found, problem = halving_search(monkeypatch, seed, 0.8)
    assert found.record.drop <= 0.8
    # A policy that is much faster loses too much: by the ILP itself, the least loss at that latency.
    from haqnas.search.ilp import solve

    faster = solve(problem, Budget(latency=problem.latency(found.policy) - 0.03 * 770))
    assert faster is None or problem.loss(faster.policy(problem.space)) > 0.8


def test_where_no_policy_is_within_the_drop_the_least_loss_is_the_best_found(monkeypatch):
    found, problem = halving_search(monkeypatch, 1, -1.0)
    assert problem.loss(found.policy) == pytest.approx(0.0)
    assert found.record.drop > -1.0


# Rules for single layers


def test_rules_of_single_layers_hold_with_uniform_bits_too(digits):
    options = Settings(
        bits="w2a4", pin=("stem*=w8a8",), exclude=("classifier",), target=TARGET, device="table"
    )
    policy = given_policy(check_options("digits", options), digits.canonical)
    found = {name: str(policy.spec_of(name)) for name in ("stem.0", "down.0", "body.0", "classifier")}
    assert found == {"stem.0": "w8a8", "down.0": "w2a4", "body.0": "w2a4", "classifier": "w8a8"}


def test_pinned_layers_keep_their_bits_in_a_search(choose):
    chosen = choose(size_budget="70%", pin=("down*=w3a8",))
    assert chosen.policy.spec_of("down.0") == QuantSpec(3, 8)
    assert chosen.policy.spec_of("stem.0") == WIDEST


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": "auto", "pin": ("conv9=8",)}, r"no layer matches 'conv9'; the layers are stem\.0, down\.0"),
        ({"bits": "8", "exclude": ("x",)}, "--exclude: no layer matches 'x'"),
        ({"bits": Policy(WIDEST), "pin": ("stem*=8",)}, "do not go with a policy"),
        ({"bits": "8", "strategy": "ilp"}, "--strategy chooses the bits"),
        ({"strategy": "luck"}, "--strategy is one of ilp, evolution, gp, .*marl, .* but got 'luck'"),
        ({"sensitivity": "luck"}, "--sensitivity is one of gradient, pairwise, kl"),
        ({"latency_budget": "fast"}, "--latency-budget is written as 5ms, 800us or 60%"),
        ({"latency_budget": "0ms"}, "--latency-budget is written as"),
        ({"size_budget": "3 apples"}, "--size-budget is written as 300KiB"),
        ({"max_drop": -0.1}, "--max-drop is a difference of accuracies from 0"),
    ],
)
def test_options_that_do_not_fit_are_told(choose, options, words):
    with pytest.raises(ConfigurationError, match=words):
        choose(**options)


# What is kept


def test_a_second_search_lowers_and_estimates_nothing(choose, monkeypatch, tmp_path):
    first = choose(size_budget="55%", work=tmp_path)

    def fail(*_args, **_options):
        raise AssertionError("this is known")

    monkeypatch.setattr(bit_prices, "lower_uniform", fail)
    monkeypatch.setattr(search_data, "estimate_loss", fail)
    again = choose(size_budget="55%", work=tmp_path / "other")
    assert (again.policy, again.search) == (first.policy, first.search)
    monkeypatch.setattr("haqnas.bit_stage.search_bits", fail)
    resumed = choose(size_budget="55%", work=tmp_path)
    assert (resumed.policy, resumed.search) == (first.policy, first.search)


def test_damaged_prices_are_found_again(choose, caches):
    first = choose(size_budget="55%")
    for path in (caches / "prices").iterdir():
        path.write_text('{"layers": 5}')
    assert choose(size_budget="55%").policy == first.policy


def test_every_method_of_sensitivity_meets_the_budget(choose, tmp_path):
    for method in ("pairwise", "kl"):
        record = choose(size_budget="50%", sensitivity=method, work=tmp_path / method).search
        assert record.sensitivity == method
        assert record.packed_weight_bytes <= 0.5 * record.int8_weight_bytes


def test_a_profile_without_bits_has_some_to_choose_from(digits):
    profile = check_options("digits", Settings(target="arm-cpu", device="table")).profile
    assert legal_bits(replace(profile, bits=())) == tuple(
        map(QuantSpec.parse, ("w8a8", "w4a8", "w2a8", "w8a4", "w4a4", "w2a4"))
    )


def test_uniform_int8_may_replace_what_was_chosen_for_speed_only(choose):
    chosen = choose(size_budget="60%")
    assert not chosen.is_for_speed(Limit("60%", 0.6, is_share=True))
    assert chosen.is_for_speed(Limit("1MB", 1e6, is_share=False))
    assert chosen.is_for_speed(None)
    assert not choose(bits="w4a8").is_for_speed(None)
