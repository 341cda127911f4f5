"""What a search for bits found, and how the binary stands to what was asked for: parts of the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["s", "instructions"]


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
    stopped: Literal["trials", "space", "time", "interrupted"] | None = None  # why trials ended
    time_budget_s: float | None = None
    fidelity: str = "ptq"  # what was judged: policies without training
    seed: int | None = None
    credit: Mapping[str, float] = field(default_factory=dict)
    compared: tuple[Compared, ...] = ()


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
