"""Which networks of a space a training step trains: the largest, the smallest, and some drawn with strict fairness.

Everything follows from (seed, number of the draw), so that a run can go on anywhere. Knobs open one after the other
(progressive shrinking, as in Once-for-All): kernel sizes, then depths, then widths, each to its greater choices first.
Resolutions are open from the start.
"""

import math
import zlib

import numpy as np

from haqnas.space.architecture import Architecture, ArchitectureKnob, ArchitectureSpace, KnobKind

ORDER = (KnobKind.KERNEL, KnobKind.DEPTH, KnobKind.WIDTH)


def openings(space: ArchitectureSpace) -> tuple[ArchitectureSpace, ...]:
    """The space as it opens: each one holds those before it, the last one is all of `space`."""
    shares = {KnobKind.RESOLUTION: 1.0} | dict.fromkeys(ORDER, 0.0)
    found: list[ArchitectureSpace] = []
    for kind in ORDER:
        for share in (0.5, 1.0):
            shares[kind] = share
            opened = space.opened(shares)
            if not found or opened != found[-1]:
                found.append(opened)
    return tuple(found)


def space_at(space: ArchitectureSpace, progress: float, shrinking: float) -> ArchitectureSpace:
    """What is open when the share `progress`, 0 to 1, of the training is done; all of it from `shrinking` on."""
    stages = openings(space)
    if progress >= shrinking:
        return stages[-1]
    return stages[math.floor(progress / shrinking * (len(stages) - 1))]


def sandwich(
    space: ArchitectureSpace, seed: int, step: int, num_random: int, has_largest: bool = True
) -> tuple[Architecture, ...]:
    """The networks of a step, each once: the largest first, unless left out, the smallest, `num_random` drawn ones."""
    drawn = [draw(space, seed, step * num_random + number) for number in range(num_random)]
    unlike = [space.identity] if has_largest else []
    for candidate in (space.least, *drawn):
        if candidate not in unlike:
            unlike.append(candidate)
    return tuple(unlike)


def draw(space: ArchitectureSpace, seed: int, number: int) -> Architecture:
    """The `number`-th network, counted from 0, of a strictly fair sequence.

    A knob with m choices takes each of them once in draws 0 to m - 1, once in draws m to 2 m - 1 ..., in random orders
    that do not depend on other knobs (FairNAS).
    """
    return Architecture({knob.name: _fair_choice(knob, seed, number) for knob in space.knobs})


def _fair_choice(knob: ArchitectureKnob, seed: int, number: int) -> int:
    count = len(knob.choices)
    cycle, place = divmod(number, count)
    entropy = (seed % 2**64, zlib.crc32(knob.name.encode()), count, cycle)
    order = np.random.default_rng(entropy).permutation(count)
    return knob.choices[int(order[place])]
