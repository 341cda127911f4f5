"""Spaces of architectures to be shown: what a model file's network could be made smaller by."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from haqnas.graph.choices import take_branches
from haqnas.graph.layers import list_layers
from haqnas.graph.load import load_model
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.options import split_model
from haqnas.rewrite.specialise import specialise
from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind
from haqnas.space.elastic import derive_architecture_space


@dataclass(frozen=True, slots=True)
class ShownSpace:
    """A space, the network's multiply-accumulates, and what is left of them at the least choice of each knob alone."""

    space: ArchitectureSpace
    macs: int
    least_macs: Mapping[str, int]


def space_of_file(model_file: str) -> ShownSpace:
    """The space of `model.py` or `model.py:BUILDER`; raises ConfigurationError and UnsupportedModelError."""
    path, builder = split_model(model_file)
    loaded = load_model(path, builder)
    canonical = normalise(trace(loaded.model, loaded.example_inputs, branches=True))
    space = derive_architecture_space(canonical)

    def macs(knob: ArchitectureKnob, choice: int) -> int:
        return _macs(specialise(canonical, space, Architecture({knob.name: choice})))

    least = {knob.name: min(macs(knob, choice) for choice in _ends(knob)) for knob in space.knobs}
    return ShownSpace(space, _macs(take_branches(canonical)), least)


def _ends(knob: ArchitectureKnob) -> tuple[int, ...]:
    """The choices of which one is the least: operators are in no order."""
    return knob.choices if knob.kind is KnobKind.OPERATOR else knob.choices[-1:]


def _macs(graph: GraphModule) -> int:
    return sum(layer.macs for layer in list_layers(graph))
