"""The ILP against the whole enumeration of small problems, and under its own prices."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haqnas.pricing import NetworkModel
from haqnas.search.ilp import Budget, Problem, reach, solve
from haqnas.space.knobs import Candidate
from tests.search.problems import made_up_problem


def every_policy(problem):
    knobs = problem.space.knobs
    for chosen in itertools.product(*(knob.choices for knob in knobs)):
        named = {knob.name: spec for knob, spec in zip(knobs, chosen, strict=True)}
        yield Candidate(named).policy(problem.space)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 5),
    st.integers(0, 3),
    st.floats(0.0, 1.2),
    st.floats(0.0, 1.2),
    st.sampled_from(["both", "latency", "size"]),
)
def test_the_answer_is_that_of_brute_force(seed, num_knobs, num_conversions, fast, small, limited):
    problem = made_up_problem(seed, num_knobs, num_conversions)
    spans = reach(problem)

    def between(span, share):
        return span[0] + share * (span[1] - span[0])

    budget = Budget(
        between(spans.latency, fast) if limited != "size" else None,
        between(spans.size_bytes, small) if limited != "latency" else None,
    )
    allowed = [policy for policy in every_policy(problem) if budget.allows(problem, policy)]
    found = solve(problem, budget)
    if not allowed:
        assert found is None
        return
    assert found is not None
    policy = found.policy(problem.space)
    assert budget.allows(problem, policy)
    assert problem.loss(policy) == pytest.approx(min(map(problem.loss, allowed)), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(0, 3))
def test_reach_is_what_all_candidates_span(seed, num_knobs, num_conversions):
    problem = made_up_problem(seed, num_knobs, num_conversions)
    spans = reach(problem)
    for measure, span in ((problem.latency, spans.latency), (problem.size_bytes, spans.size_bytes)):
        found = [measure(policy) for policy in every_policy(problem)]
        assert span == pytest.approx((min(found), max(found)), rel=1e-6)


def test_a_budget_at_the_end_of_the_reach_is_met_and_below_it_is_not():
    problem = made_up_problem(5, 5, 3)
    least_s, _ = reach(problem).latency
    found = solve(problem, Budget(latency=least_s))
    assert found is not None
    assert problem.latency(found.policy(problem.space)) <= least_s * (1 + 1e-9)
    assert solve(problem, Budget(latency=least_s * 0.999)) is None
    least_bytes, _ = reach(problem).size_bytes
    assert solve(problem, Budget(size_bytes=least_bytes)) is not None
    assert solve(problem, Budget(size_bytes=least_bytes - 1)) is None


def test_seconds_as_small_as_those_of_kernels_do_not_vanish_in_tolerances():
    problem = made_up_problem(11, 5, 2)
    tiny = Problem(
        problem.space,
        {name: {spec: loss * 1e-7 for spec, loss in row.items()} for name, row in problem.losses.items()},
        problem.prices,
        NetworkModel(1.1e-9, 0.5e-9, 0.0, 1),
        problem.sizes,
    )
    least_s, most_s = reach(tiny).latency
    budget = Budget(latency=(least_s + most_s) / 2)
    found = solve(tiny, budget)
    assert found is not None
    allowed = [policy for policy in every_policy(tiny) if budget.allows(tiny, policy)]
    assert tiny.loss(found.policy(tiny.space)) == pytest.approx(min(map(tiny.loss, allowed)), rel=1e-6)


def test_a_hundred_layers_take_seconds():
    problem = made_up_problem(3, 100, 30)
    spans = reach(problem)
    found = solve(problem, Budget(latency=sum(spans.latency) / 2, size_bytes=sum(spans.size_bytes) / 2))
    assert found is not None
