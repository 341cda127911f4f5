"""The backend `haqnas` of torch.compile: inference of captured graphs by binaries of haqnas, in this process.

    compiled = torch.compile(model.eval(), backend="haqnas", options={"bits": "w4a8", "calibration_data": data})

Options are those of `haqnas.compile`. The first call compiles; a graph that haqnas does not take runs as before, with
an EagerWarning that says why, and where in the model.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils.data import Dataset

from haqnas.api import compile as compile_model
from haqnas.artifact import Artifact, check_files, check_library, golden_records, load
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.devices.local import read_host_cpu
from haqnas.devices.records import dequantize, quantize_inputs
from haqnas.devices.shared_library import SharedLibrary
from haqnas.errors import ConfigurationError, HaqnasError, UnsupportedModelError
from haqnas.evaluate import probe_inputs
from haqnas.options import Options, check_options, read_policy
from haqnas.passes.capture import Inputs, one_record, read_inputs
from haqnas.resume import hash_request, taught_os_errors
from haqnas.settings import CompileOptions, Settings, hashed_settings
from haqnas.versions import read_versions

NAME = "model"  # of the network, in its library
DATA_OPTIONS = ("calibration_data", "train_data")
OWN_OPTIONS = ("formats", "fresh")  # that this backend chooses itself
MOST_NETWORKS = 8  # of one graph, which differ in weights
FOLDER = "torch_compile"


class EagerWarning(UserWarning):
    """A graph runs eagerly in PyTorch, not by haqnas; the message says why."""


def backend(
    graph_module: fx.GraphModule,
    _example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Sequence[Tensor]]:
    """What torch.compile calls for each graph that it captured; gives the function that runs it.

    Raises ConfigurationError for options that are none.
    """
    given = dict(options or {})
    known = sorted({*CompileOptions.__annotations__, *DATA_OPTIONS} - set(OWN_OPTIONS))
    unknown = sorted(set(given) - set(known))
    if unknown or mode is not None:
        what = (
            f"{', '.join(map(repr, unknown))} is none" if unknown else f"mode={mode!r} is for other backends"
        )
        raise ConfigurationError(f"options of the backend haqnas are {', '.join(known)}, but {what}")
    data = {name: given.pop(name, None) for name in DATA_OPTIONS}
    if given.get("cache_folder") is not None:
        given["cache_folder"] = Path(given["cache_folder"])  # options may come from a file of settings
    is_searched = read_policy(Settings(**given)) is None
    # Where the user chose the bits, the first call does not wait for a second build to compare with.
    wanted = {"compare": is_searched, **given, "formats": ("so",)}
    request = _Request(cast(CompileOptions, wanted), data)
    profile = request.checked().profile
    if not read_host_cpu().can_run(profile):
        raise ConfigurationError(
            f"the backend haqnas runs networks in this process, but this machine cannot run the target "
            f"{profile.name!r}; leave the target out, or use haqnas.compile"
        )
    return _Runner(graph_module, request)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the user asked for: keywords of `haqnas.compile`."""

    options: CompileOptions
    data: Mapping[str, Dataset[Any] | None]

    def checked(self) -> Options:
        """Raises ConfigurationError."""
        return check_options(NAME, Settings(**self.options))

    def key(self, module: fx.GraphModule, examples: tuple[Tensor, ...]) -> str:
        """Of all that the artefact depends on, but for the values of `examples`: the first ones seen decide."""
        checked = self.checked()
        settings = {
            **hashed_settings(checked.settings),
            "policy": None if checked.policy is None else checked.policy.to_json(),
            "profile": asdict(checked.profile),
            "device": checked.device.uri if checked.device else None,
            "shapes": [tuple(example.shape) for example in examples],
            "versions": read_versions(),
        }
        given = [(name, data) for name, data in self.data.items() if data is not None]
        probes = [part for name, data in given for part in probe_inputs(data, name, examples)]
        return hash_request(module, probes, settings)


@dataclass(frozen=True, slots=True)
class _Network:
    """One graph with one set of weights, compiled."""

    artifact: Artifact
    loaded: SharedLibrary
    weights: tuple[Tensor, ...]  # kept, so that nothing else takes their places in memory

    def run(self, data: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Batches (n, ...) to batches (n, ...)."""
        manifest = self.artifact.manifest
        records = quantize_inputs([part.detach().numpy() for part in data], manifest.inputs)
        outputs = self.loaded.run(records)
        return tuple(
            torch.from_numpy(dequantize(values, info))
            for values, info in zip(outputs, manifest.outputs, strict=True)
        )


class _Runner:
    """Runs one captured graph: by a network compiled for the weights at hand, else eagerly."""

    def __init__(self, graph_module: fx.GraphModule, request: _Request) -> None:
        self._graph_module, self._request = graph_module, request
        self._networks: dict[tuple[Any, ...], _Network | None] = {}  # None: not supported
        self._inputs: Inputs | None = (
            None  # read at the first call; guards of Dynamo see to it that they stay
        )
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Sequence[Tensor]:
        reason = _reason_to_stay(arguments)
        network = None
        if reason is None:
            try:
                self._inputs = self._inputs or read_inputs(self._graph_module, arguments)
                network = self._network(self._inputs, arguments)
            except UnsupportedModelError as error:
                reason = str(error)
        if network is None or self._inputs is None:
            return self._eager(reason, arguments)
        return network.run([arguments[index] for index in self._inputs.data])

    def _eager(self, reason: str | None, arguments: Sequence[Any]) -> Sequence[Tensor]:
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            warnings.warn(f"haqnas leaves a graph to eager PyTorch: {reason}", EagerWarning, stacklevel=3)
        results: Sequence[Tensor] = self._graph_module(*arguments)
        return results

    def _network(self, inputs: Inputs, arguments: Sequence[Any]) -> _Network | None:
        """Compiled at its first use."""
        weights = tuple(arguments[index] for index in inputs.weights)
        key = tuple(map(_identity, weights))
        with self._lock:
            if key not in self._networks:
                if len(self._networks) >= MOST_NETWORKS:
                    raise UnsupportedModelError(
                        f"its weights changed {MOST_NETWORKS} times, and each change is a compilation\n"
                        "  Compile a model when its weights are final; torch._dynamo.reset() begins anew."
                    )
                try:
                    self._networks[key] = self._compile(inputs, arguments, weights)
                except UnsupportedModelError:
                    self._networks[key] = None  # told once; any other error is told at each call
                    raise
            return self._networks[key]

    def _compile(self, inputs: Inputs, arguments: Sequence[Any], weights: tuple[Tensor, ...]) -> _Network:
        with torch.inference_mode(False):  # torch.export refuses the tensors of that mode
            module = one_record(self._graph_module, inputs, arguments)
            examples = tuple(arguments[index][:1].detach().clone() for index in inputs.data)
            artifact = _compile(module, examples, self._request)
        return _Network(artifact, artifact.open_library(), weights)


def _reason_to_stay(arguments: Sequence[Any]) -> str | None:
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    if torch.is_grad_enabled() and any(value.requires_grad for value in tensors):
        return "gradients may be asked for; call the compiled model under torch.no_grad() or torch.inference_mode()"
    return None


def _identity(weight: Tensor) -> tuple[int, int]:
    """Another one where the tensor is replaced, or changed in place."""
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version


def _compile(module: fx.GraphModule, examples: tuple[Tensor, ...], request: _Request) -> Artifact:
    """The artefact of a network, from the cache folder where the same was compiled before."""
    cache = request.options.get("cache_folder") or default_cache_folder()
    folder = cache / FOLDER / request.key(module, examples)[:32]
    with _alone(folder):
        artifact = _find(folder) or compile_model(
            module,
            examples,
            output=folder,
            name=NAME,
            calibration_data=request.data["calibration_data"],
            train_data=request.data["train_data"],
            **request.options,
        )
        check_library(artifact, *golden_records(artifact))
    return artifact


def _find(folder: Path) -> Artifact | None:
    try:
        found = load(folder)
        check_files(found)
    except HaqnasError:
        return None  # none, incomplete or damaged
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While open, other processes that want the same network wait."""
    with taught_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield
