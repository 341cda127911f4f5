"""The binary against the budgets: what the user limited, what was found, and whether that is within the limit."""

from haqnas.bit_prices import predict_program
from haqnas.bit_search import DEFAULT_MAX_DROP
from haqnas.bit_stage import Chosen, Priced
from haqnas.budgets import Budgets, Limit
from haqnas.codegen.program import Program
from haqnas.evaluate import Accuracy
from haqnas.manifest import Manifest
from haqnas.space.knobs import WIDEST
from haqnas.space.outcome import Constraint
from haqnas.space.policy import Policy

ROUNDING = 1e-9


def check_constraints(
    budgets: Budgets, chosen: Chosen, manifest: Manifest, policy: Policy, program: Program
) -> tuple[Constraint, ...]:
    """What the user limited, and whether the binary of `policy` keeps to it."""
    found = []
    if budgets.latency is not None and chosen.prices is not None:
        found.append(_latency_constraint(budgets.latency, chosen.prices, manifest, policy, program))
    if budgets.size is not None and chosen.prices is not None:
        limit = budgets.size.of(chosen.prices.int8_bytes)
        size = program.packed_weight_bytes
        found.append(Constraint("size", budgets.size.text, limit, size, "bytes", "exact", size <= limit))
    is_default = budgets == Budgets() and chosen.search is not None
    max_drop = DEFAULT_MAX_DROP if is_default else budgets.max_drop
    if max_drop is not None and manifest.accuracy is not None:
        found.append(_accuracy_constraint(max_drop, manifest.accuracy))
    return tuple(found)


def _accuracy_constraint(max_drop: float, accuracy: Accuracy) -> Constraint:
    reference = (
        1.0 if accuracy.float_model is None else accuracy.float_model
    )  # agreement: with the float model
    drop = reference - accuracy.simulated
    kind = f"{accuracy.metric} on {accuracy.data}"
    is_met = drop <= max_drop + ROUNDING
    return Constraint("max_drop", str(max_drop), max_drop, drop, "of accuracy", kind, is_met)


def _latency_constraint(
    asked: Limit, priced: Priced, manifest: Manifest, policy: Policy, program: Program
) -> Constraint:
    """As measured, where it was; else by prices. A share is that of the two builds, as they were compared."""
    baseline, own = manifest.baseline, manifest.latency
    if asked.is_share and baseline is not None and baseline.comparison is not None:
        comparison = baseline.comparison
        share = 1.0 if baseline.shipped == "uniform" else comparison.ratio
        return _share(asked, share, comparison.first.kind)
    if not asked.is_share and own is not None and own.median_s is not None:
        is_met = own.median_s <= asked.amount
        return Constraint("latency", asked.text, asked.amount, own.median_s, "s", own.kind, is_met)
    predicted = predict_program(program, priced.source, priced.found.model)
    assert predicted is not None  # the prices have their times from there
    if asked.is_share:
        is_int8 = manifest.architecture is None and all(
            policy.spec_of(layer) == WIDEST for layer in priced.found.sizes
        )
        return _share(asked, 1.0 if is_int8 else predicted.amount / priced.int8_latency, "predicted")
    is_met = predicted.amount <= asked.amount
    return Constraint(
        "latency", asked.text, asked.amount, predicted.amount, priced.found.unit, "predicted", is_met
    )


def _share(asked: Limit, share: float, kind: str) -> Constraint:
    is_met = share <= asked.amount + ROUNDING
    return Constraint("latency", asked.text, asked.amount, share, "of uniform int8", kind, is_met)
