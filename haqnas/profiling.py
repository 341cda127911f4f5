"""Profiling: sweep a target's kernels over the shapes of networks and over bits, and write what was found as a profile.

Every time is kept in the cache as soon as it is known, so a profile that was interrupted goes on where it stopped, and
one with more networks or bits measures only what is new.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from haqnas.errors import DeviceError, HaqnasError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.measure import Bench, Measured, measure
from haqnas.pricing import LayerPrices, Uniform, layer_prices, lower_uniform, subject_of
from haqnas.quantspec import QuantSpec

DEFAULT_BITS = tuple(
    QuantSpec(weight_bits, act_bits) for act_bits in (8, 4, 2) for weight_bits in (8, 6, 4, 3, 2, 1)
)
WIDEST = QuantSpec(8, 8)
SAVES_NOTHING = "saves neither time nor bytes"  # all other reasons to refuse bits are failures
SET = "kernels"  # name of all programs, so that they can be joined
# Fewer bits must save so much of the time of some layer that has a share of the network's, or of the weights' bytes:
# on a busy machine less does not repeat, and small calls vary most.
LEAST_GAIN, LEAST_SHARE = 0.05, 0.01

Report: TypeAlias = Callable[[int, int, str], None]  # steps done, steps in all, a note


@dataclass(frozen=True, slots=True)
class Network:
    """A network whose kernels are profiled."""

    name: str
    model: nn.Module
    example_inputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A network at all bits that run on the target, with its prices."""

    name: str
    canonical: GraphModule
    uniforms: tuple[Uniform, ...]
    prices: LayerPrices


@dataclass(frozen=True, slots=True)
class Survey:
    """What a sweep found."""

    networks: tuple[Surveyed, ...]
    measured: Measured
    legal: tuple[QuantSpec, ...]  # exact on the device, and worth choosing
    refused: Mapping[QuantSpec, str]


def survey(
    networks: Sequence[Network], specs: Sequence[QuantSpec], bench: Bench, folder: Path, report: Report
) -> Survey:
    """Measure all kernels of `networks` at w8a8 and `specs`; works in `folder`.

    Bits that do not lower, do not run or compute wrong numbers are refused, and so are those that save neither time
    nor bytes. Raises UnsupportedModelError for a network that does not lower at w8a8, DeviceError where that does not
    run.
    """
    ordered = tuple(dict.fromkeys((WIDEST, *sorted(specs, reverse=True))))
    refused: dict[QuantSpec, str] = {}
    found: list[Surveyed] = []
    num_new, total = 0, 2 * len(networks) * len(ordered)  # each is lowered, then measured
    measured = Measured({}, {}, 0)
    for index, network in enumerate(networks):
        done = 2 * index * len(ordered)
        report(done, total, f"{network.name}: tracing")
        canonical = normalise(trace(network.model.eval(), network.example_inputs))
        uniforms = _lower_all(
            canonical, network, ordered, bench, refused, partial(_count, report, done, total)
        )
        subjects = [subject_of(f"{network.name} {uniform.spec}", uniform) for uniform in uniforms]
        report_programs = partial(_count, report, done + len(ordered), total)

        measured = measure(subjects, bench, folder / str(index), report_programs)
        num_new += measured.num_new
        for uniform, subject in zip(uniforms, subjects, strict=True):
            if subject.label in measured.failures:
                if uniform.spec == WIDEST:
                    raise DeviceError(f"{subject.label}: {measured.failures[subject.label]}")
                refused.setdefault(uniform.spec, f"{network.name}: {measured.failures[subject.label]}")
        sound = tuple(u for u, s in zip(uniforms, subjects, strict=True) if s.label not in measured.failures)
        found.append(Surveyed(network.name, canonical, sound, layer_prices(canonical, sound, measured.times)))
    return _judged(found, replace(measured, num_new=num_new), ordered, refused)


def _count(report: Report, done: int, total: int, number: int, note: str) -> None:
    report(done + number, total, note)


def _lower_all(
    canonical: GraphModule,
    network: Network,
    specs: Sequence[QuantSpec],
    bench: Bench,
    refused: dict[QuantSpec, str],
    report: Callable[[int, str], None],
) -> tuple[Uniform, ...]:
    """The network at all bits that lower; notes in `refused` why the others do not."""
    found = []
    for number, spec in enumerate(specs):
        report(number, f"lowering {network.name} {spec}")
        try:
            found.append(lower_uniform(canonical, [network.example_inputs], bench.profile, spec, SET))
        except HaqnasError as error:
            if spec == WIDEST:
                raise
            refused.setdefault(spec, f"{network.name}: {error}")
    return tuple(found)


def _judged(
    networks: Sequence[Surveyed],
    measured: Measured,
    specs: Sequence[QuantSpec],
    refused: Mapping[QuantSpec, str],
) -> Survey:
    legal, reasons = [], dict(refused)
    for spec in specs:
        if spec in reasons:
            continue
        better = next(
            (other for other in specs if other not in refused and _beats(networks, other, spec)), None
        )
        if better is None:
            legal.append(spec)
        else:
            reasons[spec] = f"{SAVES_NOTHING} against {better}"
    return Survey(tuple(networks), measured, tuple(legal), reasons)


def _beats(networks: Sequence[Surveyed], wider: QuantSpec, spec: QuantSpec) -> bool:
    """Whether `wider` has more bits in one place and fewer in none, and is as good in every layer."""
    if wider == spec or wider.weight_bits < spec.weight_bits or wider.act_bits < spec.act_bits:
        return False
    return not any(_saves(network, wider, spec) for network in networks)


def _saves(network: Surveyed, wider: QuantSpec, spec: QuantSpec) -> bool:
    """Whether some layer takes clearly less time, or the program clearly fewer bytes, at `spec`."""
    sizes = {uniform.spec: uniform.program.packed_weight_bytes for uniform in network.uniforms}
    if spec not in sizes or wider not in sizes:
        return False
    if sizes[spec] < (1 - LEAST_GAIN) * sizes[wider]:
        return True
    pairs = [(costs[wider].amount, costs[spec].amount) for costs in network.prices.layers.values()]
    noticed = LEAST_SHARE * sum(at_wider for at_wider, _ in pairs)
    return any(at_wider > noticed and fewer < (1 - LEAST_GAIN) * at_wider for at_wider, fewer in pairs)


def random_network(name: str, make: Callable[[], tuple[nn.Module, Tensor]], seed: int) -> Network:
    """A network of the grid; its weights do not matter, but are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, example = make()
    return Network(name, model.eval(), (example,))
