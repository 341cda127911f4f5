"""Sensitivities to be shown: those that an artefact's bits were chosen by, or those of a model that is not compiled."""

from collections.abc import Sequence
from pathlib import Path

from haqnas.artifact import SENSITIVITY, load
from haqnas.bit_stage import legal_bits
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.devices.local import read_host_cpu
from haqnas.errors import ConfigurationError
from haqnas.graph.layers import list_layers
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.hardware import find_profile
from haqnas.options import split_model
from haqnas.progress import Progress, Report
from haqnas.quantspec import QuantSpec
from haqnas.search_data import Given, find_sensitivity
from haqnas.space.knobs import WIDEST
from haqnas.stages import calibration_samples
from haqnas.train.sensitivity import SENSITIVITIES, Sensitivity
from haqnas.train.sensitivity_file import decode_sensitivity
from haqnas.versions import read_versions


def sensitivity_of_artifact(directory: Path) -> Sensitivity:
    """Those that the search saw; raises ConfigurationError where the bits were not searched, VerificationError."""
    path = load(directory).directory / SENSITIVITY
    try:
        return decode_sensitivity(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ConfigurationError(
            f"the bits of {directory} were given, not searched, so it holds no sensitivities; name the model file "
            "instead: haqnas inspect model.py --sensitivity"
        ) from None


def sensitivity_of_file(
    model_file: str,
    target: str = "host",
    bits: Sequence[str] = (),
    method: str = "gradient",
    seed: int = 0,
    cache_folder: Path | None = None,
    progress: Report | None = None,
) -> Sensitivity:
    """Of every layer of `model.py` or `model.py:BUILDER` at w8a8 and `bits`; none: those that the profile lists.

    Reads `calibration_data`, else `train_data`, else synthetic inputs. Raises ConfigurationError and
    UnsupportedModelError.
    """
    if method not in SENSITIVITIES:
        raise ConfigurationError(f"a method is one of {', '.join(SENSITIVITIES)}, but got {method!r}")
    profile = find_profile(target, read_host_cpu())
    specs = tuple(map(QuantSpec.parse, bits)) or legal_bits(profile)
    path, builder = split_model(model_file)
    loaded = load_model(path, builder)
    canonical = normalise(trace(loaded.model, loaded.example_inputs))
    sources = {"calibration_data": loaded.calibration_data, "train_data": loaded.train_data}
    data = {name: make() for name, make in sources.items() if make is not None}
    samples = calibration_samples(loaded.model, loaded.example_inputs, data, seed)
    given = Given(
        loaded.model, canonical, loaded.example_inputs, samples.read(), samples.source, None, loaded.evaluate
    )
    choices = {layer.name: tuple(dict.fromkeys((WIDEST, *specs))) for layer in list_layers(canonical)}

    def note(text: str) -> None:
        if progress is not None:
            progress(Progress("bits", 0, 1, text))

    folder = cache_folder or default_cache_folder()
    return find_sensitivity(given, choices, method, seed, folder, read_versions(), note)
