"""How `haqnas inspect` shows the layers of an artefact, sensitivities, and spaces of architectures."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haqnas.cli.render import print_json, print_lines, print_table

if TYPE_CHECKING:
    from haqnas.architectures import ShownSpace
    from haqnas.inspection import Inspection, LayerTimes
    from haqnas.manifest import LayerRow
    from haqnas.readback import FoundLayer
    from haqnas.train.sensitivity import Sensitivity

_NUMBERS = ("weights", "packed bytes", "bits/weight", "offset", "macs", "time")


def inspection_document(inspection: "Inspection") -> dict[str, Any]:
    """For programs: one object a layer, and what the times are."""
    times = inspection.times
    amounts = times.amounts if times else (None,) * len(inspection.rows)
    layers = [
        {**asdict(row), "in_binary": asdict(found) if found else None, "time": amount}
        for row, found, amount in zip(inspection.rows, inspection.found, amounts, strict=True)
    ]
    about = {"kind": times.kind, "unit": times.unit, "source": times.source} if times else None
    return {"layers": layers, "times": about, "is_read_back": inspection.is_read}


def print_inspection(inspection: "Inspection") -> None:
    """A table for people, then what is not as it was requested."""
    bits = ("requested", "simulated", "emitted")
    columns = ("layer", "kind", *bits, *_NUMBERS, "kernel")
    times = inspection.times
    amounts = times.amounts if times else (None,) * len(inspection.rows)
    shown = zip(inspection.rows, inspection.found, amounts, strict=True)
    print_table(
        columns, (_cells(row, found, _amount(times, amount)) for row, found, amount in shown), _NUMBERS
    )
    print()
    print_lines(_remarks(inspection))


def _cells(row: "LayerRow", found: "FoundLayer | None", amount: str) -> tuple[str, ...]:
    return (
        row.name,
        row.kind,
        row.requested or "-",
        row.simulated or "-",
        (found.emitted if found else None) or ("not read" if row.emitted else "-"),
        f"{row.num_weights:,}" if row.num_weights else "-",
        f"{row.packed_bytes:,}" if row.packed_bytes else "-",
        f"{row.packed_bytes * 8 / row.num_weights:.2f}" if row.num_weights else "-",
        f"{found.offset_bytes:,}" if found else "-",
        f"{row.macs:,}" if row.macs else "-",
        amount,
        found.kernel if found else row.kernel,
    )


def _amount(times: "LayerTimes | None", amount: float | None) -> str:
    if times is None or amount is None:
        return "-"
    return f"{amount * 1e6:.1f} us" if times.unit == "s" else f"{amount:,.0f} instr"


def _remarks(inspection: "Inspection") -> Iterator[tuple[str, str]]:
    times = inspection.times
    yield (
        "times",
        f"{times.kind}, {times.source}" if times else "no table of this profile; measure with --device",
    )
    if inspection.is_read:
        yield "emitted", "read back: the weights in every binary, unpacked, are those of the integer graph"
    else:
        yield "emitted", "not read back: another haqnas made this artefact"
    layers: dict[str, list[str]] = {}
    for row in inspection.rows:
        for text in row.differences:
            layers.setdefault(text, []).append(row.name)
    for text, names in layers.items():
        yield "difference", f"{', '.join(names)}: {text}"


def inspect_sensitivity(place: str, target: str, bits: Sequence[str], method: str, is_json: bool) -> None:
    """What each layer loses at fewer bits, of an artefact or of a model file."""
    from haqnas.sensitivities import sensitivity_of_artifact, sensitivity_of_file

    if place.endswith(".py") or ".py:" in place:
        found = sensitivity_of_file(place, target, bits, method)
    else:
        found = sensitivity_of_artifact(Path(place))
    if is_json:
        print_json(_sensitivity_document(found))
    else:
        _print_sensitivity(found)


def _sensitivity_document(found: "Sensitivity") -> dict[str, Any]:
    """For programs: losses in nats a sample, by layer and bits."""
    losses = {name: {str(spec): loss for spec, loss in row.items()} for name, row in found.losses.items()}
    return {"method": found.method, "num_samples": found.num_samples, "losses": losses}


def _print_sensitivity(found: "Sensitivity") -> None:
    """A table for people: layers down, bits across, losses in thousandths of a nat."""
    specs = sorted({spec for row in found.losses.values() for spec in row}, reverse=True)
    names = tuple(map(str, specs))
    print_table(
        ("layer", *names),
        (
            (name, *(f"{row[spec] * 1000:.3g}" if spec in row else "-" for spec in specs))
            for name, row in found.losses.items()
        ),
        names,
    )
    print()
    unit = "thousandths of a nat a sample that the outputs diverge where that layer alone has these bits"
    print_lines([("loss", unit), ("method", f"{found.method}, on {found.num_samples} samples")])


def inspect_space(place: str, is_json: bool) -> None:
    """What the network of a model file could be made smaller by."""
    from haqnas.architectures import space_of_file

    shown = space_of_file(place)
    if is_json:
        print_json(_space_document(shown))
    else:
        _print_space(shown)


def _space_document(shown: "ShownSpace") -> dict[str, Any]:
    """For programs: one object a knob; the first choice is the network as it is. Only operators have labels."""
    knobs = [
        {
            **{key: value for key, value in asdict(knob).items() if key != "labels" or value},
            "least_macs": shown.least_macs[knob.name],
        }
        for knob in shown.space.knobs
    ]
    return {"knobs": knobs, "macs": shown.macs, "num_architectures": shown.space.size}


def _print_space(shown: "ShownSpace") -> None:
    """A table for people: what may be chosen, in which layers, and what the least choice leaves of the network."""
    rows = [
        (
            knob.name,
            (", " if knob.labels else " ").join(map(knob.label, knob.choices)),
            f"{shown.least_macs[knob.name] / shown.macs:.1%}",
            f"{knob.layers[0]} + {len(knob.layers) - 1} more" if len(knob.layers) > 1 else knob.layers[0],
        )
        for knob in shown.space.knobs
    ]
    print_table(("knob", "choices", "macs at the least", "layers"), rows, ("macs at the least",))
    print()
    print_lines([("macs", f"{shown.macs:,}"), ("space", f"{float(shown.space.size):.3g} architectures")])
