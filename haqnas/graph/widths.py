"""Groups of layers whose widths must agree, with their channels in the order of what they are worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from haqnas.graph.channels import FIXED, ChannelMap, Ids
from haqnas.graph.edit import attribute


@dataclass(frozen=True, slots=True)
class WidthGroup:
    """Layers that lose the same channels. A unit can only be removed as a whole: mostly one channel of each layer.

    `units` are sets of `ChannelMap.tied`, the most important first: widths keep the first ones.
    """

    name: str  # the first layer, and "/2" for its second group
    layers: tuple[str, ...]
    channels_per_unit: int  # greatest number that divides those of all layers
    units: Ids


def find_width_groups(gm: fx.GraphModule, channels: ChannelMap) -> tuple[WidthGroup, ...]:
    """The groups of a canonical graph, in the order of their first layers.

    The importance of a unit is the sum of absolute weights that make its channels, in all layers.
    """
    members = _members(channels)
    worth = _worth(gm, channels)
    alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for unit, places in members.items():
        alike.setdefault(tuple(places), []).append(unit)
    names = list(channels.made)
    groups: list[WidthGroup] = []
    for signature, found in sorted(alike.items(), key=lambda item: item[0]):
        made = [(names[place], count) for place, count in signature if place < len(names)]
        units = np.array(found)
        taken = sum(group.layers[0] == made[0][0] for group in groups)
        groups.append(
            WidthGroup(
                made[0][0] + (f"/{taken + 1}" if taken else ""),
                tuple(name for name, _ in made),
                math.gcd(*(count for _, count in made)),
                units[np.argsort(-worth[units], kind="stable")],
            )
        )
    return tuple(groups)


def _members(channels: ChannelMap) -> Mapping[int, list[tuple[int, int]]]:
    """Unit -> (place, number of its channels there) of each layer, then of each slice; not those that must stay.

    Units that differ in them are apart: a width keeps some of each kind, so that nothing ends without channels.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for place, ids in enumerate([*channels.made.values(), *channels.windows]):
        units, counts = np.unique(channels.tied[ids], return_counts=True)
        for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
            if place < len(channels.made) or unit in found:  # padding alone is no unit
                found.setdefault(unit, []).append((place, count))
    found.pop(int(channels.tied[FIXED]), None)
    return found


def _worth(gm: fx.GraphModule, channels: ChannelMap) -> NDArray[np.float64]:
    worth = np.zeros(int(channels.tied.max()) + 1)
    for name, ids in channels.made.items():
        norms = _output_norms(attribute(gm, name)).numpy()
        worth += np.bincount(channels.tied[ids], weights=norms, minlength=len(worth))
    return worth


def _output_norms(layer: nn.Module) -> Tensor:
    """Sum of absolute weights of each output channel."""
    weight = layer.get_parameter("weight").detach().abs().double()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, kh, kw)
        return weight.reshape(layer.groups, -1, *weight.shape[1:]).sum((1, 3, 4)).flatten()
    return weight.sum(tuple(range(1, weight.dim())))
