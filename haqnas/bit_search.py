"""The search for bits: prices, what can be reached, sensitivities, the ILP, and accuracies where a drop is limited."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch.fx import GraphModule

from haqnas.bit_prices import BitPrices, TimeSource, predict_program
from haqnas.budgets import Budgets, Limit
from haqnas.codegen.lower import lower
from haqnas.errors import ConfigurationError, InfeasibleBudgetError
from haqnas.quantspec import QuantSpec
from haqnas.search.ilp import Budget, Problem, Reach, reach, solve
from haqnas.search.pairwise import refine
from haqnas.space.architecture import Architecture
from haqnas.space.knobs import WIDEST, Knob, SearchSpace
from haqnas.space.outcome import Finalist, RecipeRecord, SearchRecord
from haqnas.space.policy import Policy
from haqnas.train.sensitivity import Sensitivity

ILP = "ilp"  # the strategy that needs no trials
DEFAULT_MAX_DROP = 0.01  # where the user limits nothing
HALVINGS = 6  # of the span of latencies, where the fastest policy within a drop is looked for
LEAST_SPAN = 0.01  # of uniform int8: what is gained in less does not repeat
REPAIRS = 6  # of a policy whose program takes longer than the sum of its layers' prices

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Judge:
    """Reads the drop of accuracy of a policy, simulated, on data that is kept for the search."""

    drop_of: Callable[[Policy], float]
    float_score: Callable[[], float]  # what drops are from
    judged_on: str


@dataclass(frozen=True, slots=True)
class Own:
    """What a policy's own program takes."""

    latency: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """The chosen bits, and how they were chosen; `study` is the journal of the trials, where there were some.

    `architecture`: what was chosen with them, None where the network stays as it is. `others`: the next best trials.
    """

    policy: Policy
    record: SearchRecord
    sensitivity: Sensitivity
    study: Path | None = None
    architecture: Architecture | None = None
    others: tuple[Finalist, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched: the problem without losses, what the user limits, and how a policy is lowered to be priced."""

    space: SearchSpace
    prices: BitPrices
    budgets: Budgets
    simulate: Callable[[Policy], GraphModule]  # an integer graph of the policy; its values do not matter
    source: TimeSource


def restricted(space: SearchSpace, refused: Mapping[QuantSpec, str]) -> SearchSpace:
    """The space without bits that do not run; raises ConfigurationError where the user pinned a layer to them."""

    def without(knob: Knob) -> Knob:
        choices = tuple(spec for spec in knob.choices if spec not in refused)
        if not choices:
            (spec,) = knob.choices
            raise ConfigurationError(f"--pin: {knob.name} cannot have {spec}: {refused[spec]}")
        return replace(knob, choices=choices)

    return SearchSpace(tuple(map(without, space.knobs)))


def check_time_limit(latency: Limit, source: TimeSource) -> None:
    """Raises ConfigurationError for a time where none is measured."""
    if source.unit != "s":
        raise ConfigurationError(
            f"--latency-budget {latency.text}: the device of {source.profile.name} counts instructions and measures no "
            "time; give a share of uniform int8, such as 60%"
        )


def read_amounts(search: Search) -> Budget:
    """The budgets as amounts; raises ConfigurationError for a time where none is measured."""
    problem = problem_of(search, {})
    int8 = Policy(WIDEST)
    latency, size = search.budgets.latency, search.budgets.size
    if latency is not None and not latency.is_share:
        check_time_limit(latency, search.source)
    return Budget(
        None if latency is None else latency.of(problem.latency(int8)),
        None if size is None else size.of(problem.size_bytes(int8)),
    )


def check_budgets(search: Search) -> Budget:
    """The budgets as amounts; raises InfeasibleBudgetError, with what can be reached, where no bits meet them."""
    budget = read_amounts(search)
    problem = problem_of(search, {})
    latency, size = search.budgets.latency, search.budgets.size
    spans = reach(problem)
    if budget.latency is not None and budget.latency < spans.latency[0]:
        raise InfeasibleBudgetError(_refusal("--latency-budget", latency, _latencies(search, spans)))
    if budget.size_bytes is not None and budget.size_bytes < spans.size_bytes[0]:
        raise InfeasibleBudgetError(_refusal("--size-budget", size, _sizes(search, spans)))
    if solve(problem, budget, "size") is None:
        raise InfeasibleBudgetError(
            "each budget can be met, but not both at once: "
            f"{_latencies(search, spans)}; {_sizes(search, spans)}; loosen one of them"
        )
    return budget


def _refusal(option: str, limit: Limit | None, reachable: str) -> str:
    text = "" if limit is None else limit.text
    return (
        f"{option} {text} cannot be met: {reachable}; loosen the budget, take away --pin, --include and --exclude, "
        "or choose another target"
    )


def _latencies(search: Search, spans: Reach) -> str:
    int8 = problem_of(search, {}).latency(Policy(WIDEST))
    shares = " to ".join(f"{latency / int8:.1%}" for latency in spans.latency)
    amounts = " to ".join(describe_amount(latency, search.prices.unit) for latency in spans.latency)
    return f"latency reaches from {shares} of uniform int8 ({amounts}, predicted: {search.prices.source})"


def _sizes(search: Search, spans: Reach) -> str:
    int8 = problem_of(search, {}).size_bytes(Policy(WIDEST))
    shares = " to ".join(f"{size / int8:.1%}" for size in spans.size_bytes)
    amounts = " to ".join(f"{size:,}" for size in spans.size_bytes)
    return f"packed weights reach from {shares} of uniform int8 ({amounts} bytes)"


def describe_amount(amount: float, unit: str) -> str:
    """`0.464 ms` or `9,142,182 instructions`."""
    return f"{amount * 1e3:.3f} ms" if unit == "s" else f"{amount:,.0f} instructions"


def search_bits(search: Search, budget: Budget, sensitivity: Sensitivity, judge: Judge, note: Note) -> Found:
    """The least predicted loss within the budget; without one, the least latency within the drop of accuracy.

    A policy's program may take more than the sum of its layers' prices, by conversions of values that the uniform
    programs do not convert, or by padding: it is lowered to see.
    """
    problem = problem_of(search, sensitivity.losses)
    drops: dict[str, float] = {}

    def drop_of(policy: Policy) -> float:
        key = policy.to_json()
        if key not in drops:
            drops[key] = judge.drop_of(policy)
            latency = problem.latency(policy) / problem.latency(Policy(WIDEST))
            note(f"policy {len(drops)}: {latency:.1%} of the latency, drop {drops[key]:.2%}")
        return drops[key]

    if budget.latency is None and budget.size_bytes is None:
        allowed = search.budgets.max_drop
        policy = _fastest_within(
            problem, sensitivity, DEFAULT_MAX_DROP if allowed is None else allowed, drop_of
        )
        own = lowered(search, policy)
    else:
        policy, own, _ = least_loss(problem, sensitivity, budget, search)
    drop = drop_of(policy) if search.budgets.max_drop is not None or drops else None
    record = describe(search, problem, sensitivity, policy, own)
    return Found(
        policy,
        replace(
            record, drop=drop, judged_on=None if drop is None else judge.judged_on, num_policies=len(drops)
        ),
        sensitivity,
    )


def problem_of(search: Search, losses: Mapping[str, Mapping[QuantSpec, float]]) -> Problem:
    """What the ILP solves, by the prices of `search`."""
    prices = search.prices
    return Problem(search.space, losses, prices.prices, prices.model, prices.sizes, prices.fixed_bytes)


def policy_within(problem: Problem, sensitivity: Sensitivity, budget: Budget) -> Policy | None:
    """Of the least predicted loss; None where no bits are within the budget."""
    found = solve(problem, budget)
    if found is None:
        return None
    if sensitivity.method == "pairwise":
        found = refine(problem, budget, found, sensitivity.projected)
    return found.policy(problem.space)


def least_loss(
    problem: Problem, sensitivity: Sensitivity, budget: Budget, search: Search
) -> tuple[Policy, Own, Budget]:
    """The ILP's answer, what its program takes, and the budget for prices that it was found by.

    Where the program is over a budget, the next answer has to save as much more.
    """
    policy = policy_within(problem, sensitivity, budget)
    assert policy is not None  # the budget was checked
    own, limits = lowered(search, policy), budget
    for _ in range(REPAIRS):
        if excess(own.latency, budget.latency) <= 1 and excess(own.size_bytes, budget.size_bytes) <= 1:
            break
        tightened = Budget(
            _tightened(limits.latency, excess(own.latency, budget.latency)),
            _tightened(limits.size_bytes, excess(own.size_bytes, budget.size_bytes)),
        )
        tighter = policy_within(problem, sensitivity, tightened)
        if tighter is None:
            break
        policy, own, limits = tighter, lowered(search, tighter), tightened
    return policy, own, limits


def excess(amount: float, limit: float | None) -> float:
    """Over a limit above 1; None: no limit."""
    return 0.0 if limit is None else amount / limit


def _tightened(limit: float | None, excess: float) -> float | None:
    return limit if limit is None or excess <= 1 else limit / excess


def _fastest_within(
    problem: Problem, sensitivity: Sensitivity, max_drop: float, drop_of: Callable[[Policy], float]
) -> Policy:
    """Halve the span between the least latency and that of the least loss, by accuracies of policies between them."""
    best = policy_within(problem, sensitivity, Budget())
    assert best is not None
    least, most = reach(problem).latency[0], problem.latency(best)
    scale = problem.latency(Policy(WIDEST))
    limit = least
    for _ in range(HALVINGS + 1):
        if most - limit < LEAST_SPAN * scale:
            break
        policy = policy_within(problem, sensitivity, Budget(latency=limit))
        assert policy is not None  # the limit can be reached
        if drop_of(policy) <= max_drop:
            best, most = policy, problem.latency(policy)
            if limit == least:
                break
        else:
            least = limit
        limit = (least + most) / 2
    return best


def lowered(search: Search, policy: Policy) -> Own:
    """What a policy's own program takes."""
    program = lower(search.simulate(policy), search.source.profile, "net")
    found = predict_program(program, search.source, search.prices.model)
    assert found is not None  # the prices come from the same times
    return Own(found.amount, program.packed_weight_bytes)


def describe(
    search: Search, problem: Problem, sensitivity: Sensitivity, policy: Policy, own: Own
) -> SearchRecord:
    """The ILP's choice of `policy`, whose accuracy was not looked at."""
    int8 = Policy(WIDEST)
    return SearchRecord(
        strategy=ILP,
        sensitivity=sensitivity.method,
        predicted_loss=problem.loss(policy),
        int8_loss=problem.loss(int8),
        predicted_latency=own.latency,
        int8_latency=problem.latency(int8),
        unit=search.prices.unit,
        latency_source=search.prices.source,
        packed_weight_bytes=own.size_bytes,
        int8_weight_bytes=problem.size_bytes(int8),
        drop=None,
        judged_on=None,
        num_policies=0,
    )


def is_cut_short(record: SearchRecord | RecipeRecord, time_budget_s: float | None) -> bool:
    """Whether the same search, with so much time, has more to do than it did."""
    if record.stopped == "interrupted":
        return True
    had_s = record.time_budget_s
    return record.stopped == "time" and had_s is not None and (time_budget_s is None or time_budget_s > had_s)
