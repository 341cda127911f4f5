"""The latency table of a profile: what each kernel takes on the target, recorded with where and how that was found.

It is the last part of a profile's file, `[measured]` and below: one line a kernel, sorted, so that two profiles can be
compared as text. docs/profiling-a-new-target.md describes every field.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import nnls

from haqnas.codegen.program import Program
from haqnas.devices.kernel_times import Kernel, KernelTime, kernels_of
from haqnas.devices.latency import Latency
from haqnas.errors import ConfigurationError
from haqnas.hardware import read_measured
from haqnas.pricing import Cost, NetworkModel, ProgramTime

SCHEMA = 1
NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a table comes from."""

    kind: Literal["measured", "emulated"]
    unit: Literal["ns", "instructions"]
    device: str
    date: str  # year-month-day
    versions: Mapping[str, str]
    machine: Mapping[str, str] = field(default_factory=dict)  # fingerprint of the device
    networks: tuple[str, ...] = ()  # whose kernels were recorded


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Amounts are seconds or instructions, as `provenance.unit` says (the file holds nanoseconds)."""

    provenance: Provenance
    model: NetworkModel
    kernels: Mapping[Kernel, KernelTime]
    refused: Mapping[str, str] = field(default_factory=dict)  # bits that are no choice, and why
    programs: Mapping[str, ProgramTime] = field(default_factory=dict)  # what the model was fitted to


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of a program: `estimated` is the share of the amount that comes from kernels of other shapes."""

    amount: float
    estimated: float


def read_table(path: Path) -> LatencyTable | None:
    """The table of the profile `path`, None where it has none; raises ConfigurationError."""
    document = read_measured(path)
    if document is None:
        return None
    if document.pop("schema", None) != SCHEMA:
        raise ConfigurationError(
            f"{path}: [measured] must have schema = {SCHEMA}; make it again with haqnas profile"
        )
    try:
        found = _ADAPTER.validate_python(document)
    except ValidationError as error:
        (problem, *_) = error.errors(include_url=False)
        place = ".".join(map(str, ("measured", *problem["loc"])))
        raise ConfigurationError(
            f"{path}: {place}: {problem['msg']}, but got {problem['input']!r}; make it again with haqnas profile"
        ) from None
    step = 1 / NS_PER_S if found.provenance.unit == "ns" else 1.0
    kernels = {
        (function, signature): KernelTime(amount * step, spread, runs)
        for function, rows in found.kernels.items()
        for signature, (amount, spread, runs) in rows.items()
    }
    model = NetworkModel(
        found.model.scale, found.model.per_call * step, found.model.error, found.model.num_programs
    )
    programs = {
        label: ProgramTime(whole * step, Cost(amount * step, calls))
        for label, (whole, amount, calls) in found.programs.items()
    }
    return LatencyTable(found.provenance, model, kernels, found.refused, programs)


@dataclass(frozen=True, slots=True)
class _Document:
    provenance: Provenance
    model: NetworkModel
    refused: dict[str, str]
    kernels: dict[str, dict[str, tuple[float, float, int]]]
    programs: dict[str, tuple[float, float, int]] = field(default_factory=dict)


_ADAPTER = TypeAdapter(_Document)


def table_text(table: LatencyTable) -> str:
    """`[measured]` and below as TOML; `read_table` reads it back."""
    step = NS_PER_S if table.provenance.unit == "ns" else 1.0
    made_of = table.provenance
    lines = [
        "[measured]",
        f"schema = {SCHEMA}",
        "",
        "[measured.provenance]",
        *(f"{name} = {_text(getattr(made_of, name))}" for name in ("kind", "unit", "device", "date")),
        f"networks = [{', '.join(map(_text, made_of.networks))}]",
        f"versions = {_inline(made_of.versions)}",
        f"machine = {_inline(made_of.machine)}",
        "",
        f"# end to end = scale * sum of kernels + per_call * calls, in {made_of.unit}; error: mean |relative error|",
        "[measured.model]",
        f"scale = {table.model.scale:.6f}",
        f"per_call = {table.model.per_call * step:.4f}",
        f"error = {table.model.error:.6f}",
        f"num_programs = {table.model.num_programs}",
        "",
        f"# what the model was fitted to: program = [end to end, sum of its kernels ({made_of.unit}), calls]",
        "[measured.programs]",
        *(f"{_text(label)} = {_program_row(run, step)}" for label, run in sorted(table.programs.items())),
        "",
        "# bits that are no choice on this target, and why",
        "[measured.refused]",
        *(f"{_text(bits)} = {_text(reason)}" for bits, reason in sorted(table.refused.items())),
    ]
    functions: dict[str, list[tuple[str, KernelTime]]] = {}
    for (function, signature), time in sorted(table.kernels.items()):
        functions.setdefault(function, []).append((signature, time))
    lines += [
        "",
        f"# signature = [{made_of.unit}, (90 % quantile - that) / that, runs]",
        "[measured.kernels]",
    ]
    for function, rows in functions.items():
        lines += ["", f"[measured.kernels.{function}]"]
        lines += [f"{_text(signature)} = {_row(time, step)}" for signature, time in rows]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    """A basic string of TOML: JSON's escapes are legal there."""
    return json.dumps(str(value))


def _inline(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_text(name)} = {_text(value)}" for name, value in sorted(values.items())) + "}"


def _row(time: KernelTime, step: float) -> str:
    amount = time.amount * step
    return (
        f"[{amount:.1f}, {time.spread:.3f}, {time.runs}]"
        if step != 1.0
        else f"[{amount:.0f}, 0, {time.runs}]"
    )


def _program_row(run: ProgramTime, step: float) -> str:
    digits = 1 if step != 1.0 else 0
    return f"[{run.whole * step:.{digits}f}, {run.kernels.amount * step:.{digits}f}, {run.kernels.calls}]"


def predict(known: Mapping[Kernel, KernelTime], model: NetworkModel, program: Program) -> Prediction | None:
    """End to end by the times of `known` kernels; others are estimated from those most like them.

    None where nothing is known.
    """
    if not known:
        return None
    cost, estimated = Cost(), 0.0
    for kernel in kernels_of(program):
        amount = amount_of(known, kernel)
        estimated += 0.0 if kernel in known else amount
        cost += Cost(amount, 1)
    return Prediction(model.total(cost), estimated / cost.amount if cost.amount else 0.0)


def predict_layers(table: LatencyTable, program: Program) -> dict[str, float] | None:
    """The amount of each layer's calls, by name ("" for those of no layer), which sum up to `predict`.

    None of an empty table.
    """
    if not table.kernels:
        return None
    amounts: dict[str, float] = {}
    for call, kernel in zip(program.calls, kernels_of(program), strict=True):
        amount = table.model.total(Cost(amount_of(table.kernels, kernel), 1))
        amounts[call.layer] = amounts.get(call.layer, 0.0) + amount
    return amounts


def predicted_latency(table: LatencyTable, program: Program) -> Latency | None:
    """`predict` as a latency; None where nothing can be said."""
    found = predict(table.kernels, table.model, program)
    if found is None:
        return None
    made_of = table.provenance
    warning = (
        f"{found.estimated:.0%} of it comes from kernels of shapes that the table does not have; "
        "haqnas profile --models MODEL adds them"
    )
    warnings = (warning,) if found.estimated > 0 else ()
    time_s, count = (found.amount, None) if made_of.unit == "ns" else (None, round(found.amount))
    source = f"table of {made_of.date}, {made_of.kind} on {made_of.device}"
    return Latency("predicted", source, 0, median_s=time_s, instructions=count, warnings=warnings)


def amount_of(known: Mapping[Kernel, KernelTime], kernel: Kernel) -> float:
    """What a kernel takes by the times of `known` ones, of which there is at least one."""
    own = known.get(kernel)
    return own.amount if own else _estimate(known, kernel)


def _estimate(known: Mapping[Kernel, KernelTime], kernel: Kernel) -> float:
    """constant + slope * work, fitted to the nearest kernels by least relative squares."""
    near = _nearest(known, kernel)
    amounts = np.array([time.amount for _, time in near])
    works = np.array([[1.0, work_of(signature)] for signature, _ in near])
    (constant, slope), _ = nnls(works / amounts[:, None], np.ones(len(amounts)))
    return float(constant + slope * work_of(kernel[1]))


def _nearest(known: Mapping[Kernel, KernelTime], kernel: Kernel) -> list[tuple[str, KernelTime]]:
    """Kernels of the same function, else of those whose names begin alike, else of those that loop alike."""

    def likeness(other: Kernel) -> tuple[int, bool]:
        words = zip(kernel[0].split("_"), other[0].split("_"), strict=False)
        begins_alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], words))
        loops_alike = kernel[1].partition("=")[0] == other[1].partition("=")[0]
        return (begins_alike if begins_alike > 1 else 0) + 100 * (other[0] == kernel[0]), loops_alike

    best = max(map(likeness, known))
    return [(other[1], time) for other, time in known.items() if likeness(other) == best]


def work_of(signature: str) -> float:
    """Rough number of steps that a signature stands for: the product of the numbers that count something."""
    words = dict(word.split("=", 1) for word in signature.split() if "=" in word)
    counted = [words[name] for name in ("rows", "columns", "channels", "length", "taps") if name in words]
    if not counted:
        counted = [words[name] for name in ("extents", "size", "groups", "gaps") if name in words][:1]
    numbers = [int(part) for text in counted for part in text.replace("x", ",").split(",") if part.isdigit()]
    return float(prod(numbers)) if numbers else 1.0
