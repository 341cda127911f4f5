"""A trained supernet as one file: arrays, and a JSON document among them; no pickle."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.fx import GraphModule

from haqnas.errors import ConfigurationError
from haqnas.graph.digest import add_graph, add_tensor
from haqnas.rewrite.elastic import read_structure
from haqnas.rewrite.shared import normed_layers, share_weights
from haqnas.space.architecture import ArchitectureKnob, ArchitectureSpace, KnobKind
from haqnas.train.supernet import Supernet, SupernetTraining

SCHEMA = 2
DOCUMENT = "document"  # the array that holds the JSON text; names of weights have a dot


def save_supernet(supernet: Supernet, path: Path) -> None:
    """Write the file, or leave the old one."""
    document = {
        "schema": SCHEMA,
        "network_sha256": _digest(supernet.structure.canonical),
        "knobs": [asdict(knob) for knob in supernet.space.knobs],
        "training": asdict(supernet.training),
    }
    arrays = {
        name: value.detach().contiguous().numpy() for name, value in supernet.shared.state_dict().items()
    }
    arrays[DOCUMENT] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_supernet(path: Path, canonical: GraphModule) -> Supernet:
    """Inverse of `save_supernet`, given the same network.

    Raises ConfigurationError for a file that is missing or damaged, and for another network.
    """
    try:
        # numpy leaves a file open that it opened itself and cannot read
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        document = json.loads(arrays.pop(DOCUMENT).tobytes())
        network, schema = document["network_sha256"], document["schema"]
        space = ArchitectureSpace(tuple(_knob(**knob) for knob in document["knobs"]))
        training = SupernetTraining(**document["training"])
    except Exception as error:  # a damaged file raises many kinds
        raise ConfigurationError(
            f"{path} holds no supernet ({type(error).__name__}: {error}); train the shared weights again"
        ) from error
    if schema != SCHEMA or network != _digest(canonical):
        raise ConfigurationError(
            f"{path} holds the shared weights of another network, or of another version of haqnas; train them again, "
            "or give the network that they were trained from, with the weights it had"
        )
    unmeasured = {name: (torch.zeros(count), torch.ones(count)) for name, count in _counts(canonical).items()}
    shared = share_weights(canonical, space, unmeasured)
    shared.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return Supernet(read_structure(canonical, space), shared, training)


def weights_sha256(supernet: Supernet) -> str:
    """Of the shared weights; two trainings that end by time give others."""
    digest = hashlib.sha256()
    for name, value in supernet.shared.state_dict().items():
        digest.update(name.encode())
        add_tensor(digest, value)
    return digest.hexdigest()


def _knob(name: str, kind: str, layers: list[str], choices: list[int], labels: list[str]) -> ArchitectureKnob:
    return ArchitectureKnob(name, KnobKind(kind), tuple(layers), tuple(choices), tuple(labels))


def _counts(canonical: GraphModule) -> dict[str, int]:
    """Output channels of the layers that have a batch norm."""
    shapes = {
        str(node.target): node.meta["val"].shape for node in canonical.graph.nodes if node.op == "call_module"
    }
    return {name: shapes[name][1] for name in normed_layers(canonical)}


def _digest(canonical: GraphModule) -> str:
    digest = hashlib.sha256()
    add_graph(digest, canonical)
    return digest.hexdigest()
