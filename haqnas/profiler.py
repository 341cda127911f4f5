"""`haqnas.profile`: a target's kernels measured over networks, and written as a profile and in others' formats."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from haqnas.artifact import write_atomically
from haqnas.devices.cache import KernelCache, kernel_context
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.devices.device import Device
from haqnas.devices.local import read_host_cpu
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.exchange import module_order, ofa_text, to_haq, to_ofa
from haqnas.graph.load import load_model
from haqnas.grid import GRID
from haqnas.hardware import profile_path
from haqnas.latency_table import LatencyTable, Provenance
from haqnas.measure import Bench
from haqnas.options import c_name, check_options, split_model
from haqnas.profile_file import read_earlier, write_profile
from haqnas.profiling import DEFAULT_BITS, Network, Survey, random_network, survey
from haqnas.progress import Progress, Report
from haqnas.quantspec import QuantSpec
from haqnas.resume import taught_os_errors
from haqnas.settings import Settings
from haqnas.versions import read_versions


@dataclass(frozen=True, slots=True)
class Profiled:
    """A profile that was written, and what it found."""

    path: Path
    survey: Survey
    table: LatencyTable
    legal: tuple[QuantSpec, ...]  # bits worth choosing, by this survey and by earlier ones
    replaced: str | None = None  # why nothing that the file held before was kept
    exported: tuple[Path, ...] = ()  # files in the formats of others


def profile(
    target: str,
    *,
    output: Path | str,
    networks: Sequence[Network] = (),
    model_files: Sequence[str] = (),
    bits: Sequence[str] = (),
    device: str | None = None,
    cc: str | None = None,
    cache_folder: Path | None = None,
    haq_folder: Path | None = None,
    ofa_file: Path | None = None,
    progress: Report | None = None,
) -> Profiled:
    """Measure the kernels of `target` and write them with the bits worth choosing as the profile `output`.

    Shapes are those of `networks` and of model files (`model.py` or `model.py:BUILDER`); of neither, those of a grid.
    `bits` such as "w4a8"; none: weights of 8, 6, 4, 3, 2 and 1 bits with activations of 8, 4 and 2. The same call goes
    on where an interrupted one stopped; what `output` holds of the same machine, versions and target is kept.
    `haq_folder` gets a table of each network in HAQ's format, `ofa_file` one of all networks at w8a8 in that of
    ProxylessNAS and OFA (see `exchange.py`).

    Raises ConfigurationError, UnsupportedModelError, DeviceError.
    """
    path = Path(output)
    specs = [QuantSpec.parse(text) for text in bits] or list(DEFAULT_BITS)
    options = check_options("kernels", Settings(target=target, cc=cc, device=device))
    if path.suffix != ".toml":
        raise ConfigurationError(f"a profile is a file such as my-board.toml, but got {path}")
    if options.device is None:
        raise DeviceError(
            f"nothing here runs the target {options.profile.name!r}; name a device with --device, "
            "or install its emulator (apt install qemu-user)"
        )
    chosen = [*networks, *map(_network_of_file, model_files)]
    chosen = chosen or [random_network(name, make, 0) for name, make in GRID.items()]
    context = kernel_context(options.profile, options.device, read_versions(), threads=1)
    cache = KernelCache(cache_folder or default_cache_folder(), context)
    bench = Bench(options.profile, options.linker, options.device, cache, time.time)
    provenance = _provenance(options.device, context, chosen)
    earlier = read_earlier(path, options.profile, provenance)
    report = _profile_report(progress)
    if earlier.replaced is not None:
        report(0, 1, earlier.replaced)
    with tempfile.TemporaryDirectory(prefix="haqnas-") as folder, taught_os_errors(path.parent):
        found = survey(chosen, specs, bench, Path(folder), report)
        base = profile_path(target, read_host_cpu())
        written = write_profile(base, found, provenance, earlier, path)
        exported = (
            *(() if haq_folder is None else _export_haq(chosen, found, written.table, haq_folder)),
            *(() if ofa_file is None else _export_ofa(found, written.table, ofa_file)),
        )
    return Profiled(path, found, written.table, written.legal, earlier.replaced, exported)


def _export_haq(
    networks: Sequence[Network], found: Survey, table: LatencyTable, folder: Path
) -> tuple[Path, ...]:
    """One `.npy` a network; the order of its rows stands beside it, because HAQ's format does not say it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for network, surveyed in zip(networks, found.networks, strict=True):
        order = module_order(network.model, surveyed.prices)
        made = to_haq(surveyed.prices, table.model, order, table.provenance.unit)
        path = folder / f"{network.name}_latency_table.npy"
        np.save(path, made.latencies, allow_pickle=False)
        write_atomically(path.with_suffix(".layers.txt"), "".join(f"{name}\n" for name in order).encode())
        files.append(path)
    return tuple(files)


def _export_ofa(found: Survey, table: LatencyTable, path: Path) -> tuple[Path, ...]:
    unit = table.provenance.unit
    tables = [
        to_ofa(network.canonical, network.prices, table.model, QuantSpec(8, 8), unit, unit == "instructions")
        for network in found.networks
    ]
    write_atomically(path, ofa_text(tables).encode())
    return (path,)


def _network_of_file(model_file: str) -> Network:
    path, builder = split_model(model_file)
    loaded = load_model(path, builder)
    return Network(
        c_name(path.stem) + (f":{builder}" if builder else ""), loaded.model, loaded.example_inputs
    )


# Of a fingerprint, what stays as it is from one run to the next.
_LASTING = (
    "key",
    "cpu",
    "board",
    "arch",
    "cores",
    "pinned_cores",
    "max_frequency_hz",
    "governor",
    "emulator",
)


def _provenance(device: Device, context: dict[str, str], networks: Sequence[Network]) -> Provenance:
    is_measured = device.latency_kind == "measured"
    machine = device.fingerprint().to_document()
    return Provenance(
        kind=device.latency_kind,
        unit="ns" if is_measured else "instructions",
        device=device.uri,
        date=datetime.now(UTC).date().isoformat(),
        versions={name: context[name] for name in ("haqnas_source", "tvm")} | {"haqnas": version("haqnas")},
        machine={name: str(value) for name, value in machine.items() if name in _LASTING},
        networks=tuple(network.name for network in networks),
    )


def _profile_report(progress: Report | None) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, note: str) -> None:
        if progress is not None:
            progress(Progress("profile", done, total, note, is_even=True))

    return report
