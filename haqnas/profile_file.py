"""The file of a profile: what a sweep found, joined with what earlier ones recorded there of the same machine."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from haqnas.artifact import write_atomically
from haqnas.devices.kernel_times import kernels_of
from haqnas.hardware import HardwareProfile, head_of, load_profile, read_text
from haqnas.latency_table import LatencyTable, Provenance, read_table, table_text
from haqnas.pricing import fit_model, program_times
from haqnas.profiling import SAVES_NOTHING, Survey
from haqnas.quantspec import QuantSpec

Verdicts: TypeAlias = Mapping[QuantSpec, str | None]  # why bits are no choice; None: they are


@dataclass(frozen=True, slots=True)
class Earlier:
    """What stands in a file that is to be written: what is kept, or why nothing is."""

    table: LatencyTable | None = None
    verdicts: Verdicts = field(default_factory=dict)
    replaced: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What a profile's file holds now."""

    table: LatencyTable
    legal: tuple[QuantSpec, ...]


def read_earlier(path: Path, profile: HardwareProfile, provenance: Provenance) -> Earlier:
    """What a new sweep of `profile` keeps of the file `path`: all where machine, versions and target are the same.

    Raises ConfigurationError where the file is there but is no profile.
    """
    if not path.exists():
        return Earlier()
    old, table = load_profile(path), read_table(path)
    if table is None:
        return Earlier()
    difference = _difference(table.provenance, provenance)
    if difference is None and _what_matters(old) != _what_matters(profile):
        difference = "of another target: fields of the profile differ"
    if difference is not None:
        return Earlier(replaced=f"the times that {path} held were {difference}; they are not kept")
    verdicts: dict[QuantSpec, str | None] = {
        QuantSpec.parse(bits): why for bits, why in table.refused.items()
    }
    return Earlier(table, verdicts | {QuantSpec.parse(bits): None for bits in old.bits})


def _what_matters(profile: HardwareProfile) -> HardwareProfile:
    return replace(profile, bits=(), description="")


def _difference(old: Provenance, new: Provenance) -> str | None:
    if (old.kind, old.machine.get("key")) != (new.kind, new.machine.get("key")):
        return f"{old.kind} on another machine ({old.machine.get('cpu', 'unknown')} at {old.device})"
    if dict(old.versions) != dict(new.versions):
        names = sorted(old.versions.keys() | new.versions.keys())
        changed = [
            f"{name} {old.versions.get(name)} (now {new.versions.get(name)})"
            for name in names
            if old.versions.get(name) != new.versions.get(name)
        ]
        return f"made by other versions: {', '.join(changed)}"
    return None


def write_profile(
    base: Path, found: Survey, provenance: Provenance, earlier: Earlier, output: Path
) -> Written:
    """Write `output`: the profile `base` with what was found, and with what `earlier` keeps. Raises OSError."""
    table = table_of(found, provenance)
    verdicts: Verdicts = {**found.refused, **dict.fromkeys(found.legal)}
    if earlier.table is not None:
        is_anew = set(earlier.table.provenance.networks) <= set(provenance.networks)
        verdicts = join_verdicts(earlier.verdicts, verdicts, is_anew)
        table = join_tables(earlier.table, table)
    table = replace(table, refused={str(spec): why for spec, why in verdicts.items() if why is not None})
    legal = tuple(spec for spec in sorted(verdicts, reverse=True) if verdicts[spec] is None)
    write_atomically(output, profile_text(read_text(base), legal, table).encode())
    return Written(table, legal)


def table_of(found: Survey, provenance: Provenance) -> LatencyTable:
    """What the file records of a survey, but for the bits that are refused."""
    programs = [
        (f"{network.name} {uniform.spec}", uniform.program)
        for network in found.networks
        for uniform in network.uniforms
    ]
    times = found.measured.times
    kernels = {kernel: times[kernel] for _, program in programs for kernel in kernels_of(program)}
    runs = program_times(programs, times)
    return LatencyTable(provenance, fit_model(runs.values()), kernels, programs=runs)


def join_tables(old: LatencyTable, new: LatencyTable) -> LatencyTable:
    """The new table and all of the old one that was not measured anew; the model is fitted to the programs of both."""
    networks = tuple(dict.fromkeys((*old.provenance.networks, *new.provenance.networks)))
    programs = {**old.programs, **new.programs}
    return LatencyTable(
        replace(new.provenance, networks=networks),
        fit_model(programs.values()),
        {**old.kernels, **new.kernels},
        programs=programs,
    )


def join_verdicts(old: Verdicts, new: Verdicts, is_anew: bool) -> Verdicts:
    """As if both sweeps had been one; `is_anew`: the new one had all networks of the old, so its verdicts replace."""
    if is_anew:
        return {**old, **new}
    return {**old, **{spec: _join(old[spec], why) if spec in old else why for spec, why in new.items()}}


def _join(old: str | None, new: str | None) -> str | None:
    """Bits that fail with one network are no choice; bits that pay with one are."""
    failures = [why for why in (new, old) if why is not None and not why.startswith(SAVES_NOTHING)]
    if failures:
        return failures[0]
    return None if None in (old, new) else new


def profile_text(base: str, legal: Sequence[QuantSpec], table: LatencyTable) -> str:
    """The text of the profile `base` with the legal bits and the table in place of its own."""
    head = re.sub(r"^bits\s*=\s*\[[^\]]*\]\n", "", head_of(base), flags=re.MULTILINE).rstrip() + "\n"
    first_table = re.search(r"^\[", head, re.MULTILINE)
    place = first_table.start() if first_table else len(head)
    bits = f"bits = [{', '.join(json.dumps(str(spec)) for spec in legal)}]\n"
    gap = "\n" if first_table else ""
    return f"{head[:place].rstrip()}\n{bits}{gap}{head[place:]}\n{table_text(table)}"
