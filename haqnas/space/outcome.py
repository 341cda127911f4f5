"""What a search for bits found, and how the binary stands to what was asked for: parts of the manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from haqnas.space.architecture import Architecture
from haqnas.space.policy import Policy

Unit = Literal["s", "instructions"]
Stopped = Literal["trials", "space", "time", "interrupted"]


@dataclass(frozen=True, slots=True)
class Compared:
    """What one strategy found, beside others at equal evaluations: its best policy by the search split."""

    strategy: str
    drop: float | None  # None: no trial succeeded
    predicted_latency: float | None
    packed_weight_bytes: int | None
    num_policies: int
    num_failed: int
    time_s: float  # of all evaluations together


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """How the bits were chosen. `drop` is that of accuracy on the search split, None where it was not looked at.

    By trials: each is a policy whose accuracy was read; `credit` is what the choices of each agent (a group of layers)
    add to the score, against choices by chance.
    """

    strategy: str
    sensitivity: str  # "gradient", "kl" or "pairwise"
    predicted_loss: float  # nats a sample, against the float network
    int8_loss: float  # the same of uniform int8
    predicted_latency: float  # of one thread
    int8_latency: float  # the same of uniform int8
    unit: Unit
    latency_source: str  # where the times of kernels come from
    packed_weight_bytes: int
    int8_weight_bytes: int
    drop: float | None
    judged_on: str | None  # what `drop` was read on
    num_policies: int  # whose accuracy was read
    num_failed: int = 0  # of them
    num_trials: int | None = None  # that were asked for; None: the strategy makes none
    stopped: Stopped | None = None  # why trials ended
    time_budget_s: float | None = None
    fidelity: str = "ptq"  # what was judged: policies without training
    seed: int | None = None
    credit: Mapping[str, float] = field(default_factory=dict)
    compared: tuple[Compared, ...] = ()


@dataclass(frozen=True, slots=True)
class Finalist:
    """A policy that a search ends with, and what is known of it; `architecture`: what was chosen with it."""

    policy: Policy
    record: SearchRecord
    architecture: Architecture | None = None


def encode_finalist(finalist: Finalist) -> dict[str, Any]:
    """Values for JSON; inverse of `decode_finalist`."""
    architecture = finalist.architecture
    return {
        "policy": finalist.policy.to_json(),
        "record": asdict(finalist.record),
        "architecture": None if architecture is None else architecture.to_json(),
    }


def decode_finalist(document: Any) -> Finalist:
    """Of a document that may hold more; raises what pydantic does for one that `encode_finalist` did not make."""
    text = document["architecture"]
    return Finalist(
        Policy.from_json(document["policy"]),
        TypeAdapter(SearchRecord).validate_python(document["record"]),
        None if text is None else Architecture.from_json(text),
    )


@dataclass(frozen=True, slots=True)
class RecipeRecord:
    """How the recipe of the fine-tuning was chosen, by short trainings; among several policies, with the policy.

    Drops are of accuracy on what `judged_on` names, after a trial. `credit` is what the choices of each agent
    (CANDIDATE, HPO, AUG) add to the score, against choices by chance.
    """

    choices: Mapping[str, str]  # by decision, in words
    drop: float
    default_drop: (
        float | None
    )  # of the best policy by the default recipe, which is the first trial; None: it failed
    judged_on: str
    trial_epochs: float
    strategy: str
    seed: int
    num_trials: int  # that were asked for
    num_tried: int
    num_failed: int
    stopped: Stopped
    time_budget_s: float | None
    credit: Mapping[str, float]
    study: str  # its name in the journal
    fidelity: str = "short qat"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit that the user set, and what the binary has."""

    name: Literal["latency", "size", "max_drop"]
    requested: str  # as the user wrote it
    limit: float
    found: float
    unit: Literal["s", "instructions", "bytes", "of uniform int8", "of accuracy"]
    kind: str  # of `found`: "measured", "emulated", "predicted", "exact", or what accuracy was read on
    is_met: bool
