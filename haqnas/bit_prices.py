"""Prices of a network's layers at all bits that may be chosen: from the profile's table, measured where it lacks some.

Each pair of bits is lowered once; its kernels are looked up, or run on the device as `haqnas profile` would. What was
found is kept by network, target and table, so the second search of a network begins with its prices.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from haqnas.artifact import write_atomically
from haqnas.codegen.link import Linker
from haqnas.codegen.program import Program
from haqnas.devices.cache import KernelCache, kernel_context
from haqnas.devices.device import Device
from haqnas.devices.kernel_times import Kernel, KernelTime, kernels_of
from haqnas.errors import ConfigurationError, DeviceError, HaqnasError
from haqnas.hardware import HardwareProfile
from haqnas.latency_table import LatencyTable, Prediction, Provenance, amount_of, predict
from haqnas.measure import WHOLE, Bench, measure
from haqnas.pricing import (
    SUM,
    Conversion,
    Cost,
    LayerPrices,
    NetworkModel,
    Uniform,
    fit_model,
    layer_prices,
    lower_uniform,
    program_times,
    subject_of,
)
from haqnas.quantspec import QuantSpec
from haqnas.space.knobs import WIDEST
from haqnas.space.outcome import Unit

SEGMENT = "net"  # name of the programs that are joined

Batch = tuple[Tensor, ...]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TimeSource:
    """Where times of kernels come from: a table that holds for the device, and a bench that measures what it lacks."""

    profile: HardwareProfile
    table: LatencyTable | None
    bench: Bench | None

    @property
    def is_empty(self) -> bool:
        """Whether no time is known, for example because its cache was deleted."""
        return self.table is None and (self.bench is None or not self.bench.cache.known())

    @property
    def unit(self) -> Unit:
        """What the times are counts of."""
        if self.table is not None:
            return "s" if self.table.provenance.unit == "ns" else "instructions"
        assert self.bench is not None  # there is a table or a bench
        return "s" if self.bench.device.latency_kind == "measured" else "instructions"

    @property
    def key(self) -> str:
        """Of all that the times depend on."""
        made_of = (
            None if self.table is None else (self.table.provenance, self.table.model, len(self.table.kernels))
        )
        context = None if self.bench is None else self.bench.cache.key
        return hashlib.sha256(repr((self.profile, made_of, context)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BitPrices:
    """What each layer costs at each of its bits: latency, and packed bytes of weights. `refused` bits have no price."""

    prices: LayerPrices
    model: NetworkModel
    sizes: Mapping[str, Mapping[QuantSpec, int]]
    fixed_bytes: int  # of the packed weights, that belong to no layer
    unit: Unit
    source: str  # of the times, in words
    refused: Mapping[QuantSpec, str]


def time_source(
    profile: HardwareProfile,
    table: LatencyTable | None,
    device: Device | None,
    linker: Linker,
    cache_folder: Path,
    versions: Mapping[str, str],
) -> TimeSource:
    """The times that hold for `device`; None for it: those of the table alone.

    A table that was made on another machine is no guide to this one, but counts of instructions are the same anywhere.
    Raises ConfigurationError where there is neither table nor device, DeviceError where the device is not reached.
    """
    if device is None:
        if table is None:
            raise ConfigurationError(
                f"budgets and --bits auto need the times of kernels, but the profile {profile.name!r} has no table and "
                "nothing here runs it; name a --device, or make a profile with haqnas profile on a machine that can"
            )
        return TimeSource(profile, table, None)
    cache = KernelCache(cache_folder, kernel_context(profile, device, versions, threads=1))
    bench = Bench(profile, linker, device, cache, time.time)
    holds = table is not None and _holds_for(table.provenance, device)
    return TimeSource(profile, table if holds else None, bench)


def _holds_for(made_of: Provenance, device: Device) -> bool:
    if made_of.kind != device.latency_kind:
        return False
    if made_of.kind == "emulated":
        return made_of.device == device.uri
    return made_of.machine.get("key") == device.fingerprint().key


def price_graphs(
    graphs: Sequence[tuple[GraphModule, Batch]],
    specs: Sequence[QuantSpec],
    source: TimeSource,
    name: str,
    folder: Path,
    note: Note,
) -> tuple[BitPrices, ...]:
    """Prices of canonical graphs at w8a8 and `specs`; works in `folder`. What has no time is measured for all at once.

    Each graph comes with a batch, which says what its activations look like. Bits that do not lower or do not run in
    one of them are refused for all, in the result. Raises UnsupportedModelError and DeviceError where that is w8a8.
    """
    refused: dict[QuantSpec, str] = {}
    lowered: list[list[Uniform]] = []
    for number, (graph, batch) in enumerate(graphs):
        lowered.append([])
        for spec in dict.fromkeys((WIDEST, *specs)):
            if spec in refused:
                continue
            note(f"lowering {spec}" + (f", network {number + 1} of {len(graphs)}" if len(graphs) > 1 else ""))
            try:
                lowered[-1].append(lower_uniform(graph, [batch], source.profile, spec, SEGMENT))
            except HaqnasError as error:
                if spec == WIDEST:
                    raise
                refused[spec] = str(error)
    labelled = {
        f"{name} {uniform.spec}" + (f" of network {number + 1}" if number else ""): uniform
        for number, uniforms in enumerate(lowered)
        for uniform in uniforms
    }
    times, model, words, failures = _times_of(labelled, source, folder, note)
    refused |= failures
    return tuple(
        _prices_of(
            graph,
            [uniform for uniform in uniforms if uniform.spec not in refused],
            *(times, model, source.unit, words, refused),
        )
        for (graph, _), uniforms in zip(graphs, lowered, strict=True)
    )


def _prices_of(
    canonical: GraphModule,
    uniforms: Sequence[Uniform],
    times: Mapping[Kernel, KernelTime],
    model: NetworkModel,
    unit: Unit,
    words: str,
    refused: Mapping[QuantSpec, str],
) -> BitPrices:
    sizes = {uniform.spec: _packed_bytes(uniform.program) for uniform in uniforms}
    prices = layer_prices(canonical, uniforms, times)
    return BitPrices(
        prices=prices,
        model=model,
        sizes={
            layer: {spec: by_layer.get(layer, 0) for spec, by_layer in sizes.items()}
            for layer in prices.layers
        },
        fixed_bytes=uniforms[0].program.packed_weight_bytes - sum(sizes[WIDEST].values()),
        unit=unit,
        source=words,
        refused=refused,
    )


def _packed_bytes(program: Program) -> dict[str, int]:
    return {layer.name: layer.packed_bytes for layer in program.layers}


def _times_of(
    labelled: Mapping[str, Uniform], source: TimeSource, folder: Path, note: Note
) -> tuple[dict[Kernel, KernelTime], NetworkModel, str, dict[QuantSpec, str]]:
    """Times of all kernels, the network model, where they come from, and the bits that do not run."""
    known = dict(source.table.kernels) if source.table else {}
    missing = {
        label: uniform
        for label, uniform in labelled.items()
        if any(kernel not in known for kernel in kernels_of(uniform.program))
    }
    words = _described(source.table)
    failures: dict[QuantSpec, str] = {}
    model = source.table.model if source.table else None
    if source.bench is not None and missing:
        subjects = [subject_of(label, uniform) for label, uniform in missing.items()]
        found = measure(subjects, source.bench, folder, lambda _, text: note(text))
        known |= {kernel: amount for kernel, amount in found.times.items() if kernel[0] != WHOLE}
        runs = program_times(((label, uniform.program) for label, uniform in labelled.items()), found.times)
        model = model or fit_model(runs.values())
        words = f"measured on {source.bench.device.uri}" + (f", {words}" if words else "")
        failures = _failed(missing, found.failures)
    estimated = {
        kernel: KernelTime(amount_of(known, kernel), 0.0, 0)
        for uniform in missing.values()
        if uniform.spec not in failures
        for kernel in kernels_of(uniform.program)
        if kernel not in known
    }
    if estimated:
        words += f"; {len(estimated)} kernels estimated from others"
    return {**known, **estimated}, model or SUM, words, failures


def _failed(labelled: Mapping[str, Uniform], failures: Mapping[str, str]) -> dict[QuantSpec, str]:
    found: dict[QuantSpec, str] = {}
    for label, uniform in labelled.items():
        if label in failures:
            if uniform.spec == WIDEST:
                raise DeviceError(f"{label} has no time: {failures[label]}")
            found.setdefault(uniform.spec, failures[label])
    return found


def _described(table: LatencyTable | None) -> str:
    if table is None:
        return ""
    made_of = table.provenance
    return f"table of {made_of.date}, {made_of.kind} on {made_of.device}"


def predict_program(program: Program, source: TimeSource, model: NetworkModel) -> Prediction | None:
    """The latency of a lowered policy by all times that are known; None where there are none."""
    known = dict(source.table.kernels) if source.table else {}
    if source.bench is not None:
        measured = source.bench.cache.known()
        known |= {kernel: amount for kernel, amount in measured.items() if kernel[0] != WHOLE}
    return predict(known, model, program)


# Kept between runs --------------------------------------------------------------------------------------------


def kept_prices(
    path: Path, source: TimeSource, make: Callable[[], tuple[BitPrices, ...]]
) -> tuple[BitPrices, ...]:
    """Those of an earlier run, or new ones, which are kept; what is damaged, or has lost its times, is made again."""
    kept = None if source.is_empty else _read(path)
    if kept is not None:
        return kept
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(list(map(_encode, found))).encode())
    return found


def _read(path: Path) -> tuple[BitPrices, ...] | None:
    try:
        return tuple(map(_decode, json.loads(path.read_bytes())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigurationError):
        return None  # none there, or damaged


def _encode(found: BitPrices) -> dict[str, Any]:
    return {
        "layers": {
            name: {str(spec): [cost.amount, cost.calls] for spec, cost in row.items()}
            for name, row in found.prices.layers.items()
        },
        "conversions": [
            [conversion.cost.amount, conversion.cost.calls, sorted(conversion.readers), conversion.act_bits]
            for conversion in found.prices.conversions
        ],
        "glue": {name: [cost.amount, cost.calls] for name, cost in found.prices.glue.items()},
        "model": [found.model.scale, found.model.per_call, found.model.error, found.model.num_programs],
        "sizes": {name: {str(spec): size for spec, size in row.items()} for name, row in found.sizes.items()},
        "fixed_bytes": found.fixed_bytes,
        "unit": found.unit,
        "source": found.source,
        "refused": {str(spec): reason for spec, reason in found.refused.items()},
    }


def _decode(document: Any) -> BitPrices:
    prices = LayerPrices(
        {
            name: {QuantSpec.parse(spec): Cost(*cost) for spec, cost in row.items()}
            for name, row in document["layers"].items()
        },
        tuple(
            Conversion(Cost(amount, calls), frozenset(readers), bits)
            for amount, calls, readers, bits in document["conversions"]
        ),
        {name: Cost(*cost) for name, cost in document["glue"].items()},
    )
    return BitPrices(
        prices=prices,
        model=NetworkModel(*document["model"]),
        sizes={
            name: {QuantSpec.parse(spec): int(size) for spec, size in row.items()}
            for name, row in document["sizes"].items()
        },
        fixed_bytes=int(document["fixed_bytes"]),
        unit=document["unit"],
        source=str(document["source"]),
        refused={QuantSpec.parse(spec): str(reason) for spec, reason in document["refused"].items()},
    )
