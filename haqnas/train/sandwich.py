"""Which networks of a space a training step trains: the largest, the smallest, and some drawn with strict fairness.

Everything follows from (seed, number of the draw), so that a run can go on anywhere. Knobs open one after the other
(progressive shrinking, as in Once-for-All): kernel sizes, then depths, then widths, each to its greater choices first.
Resolutions and operators are open from the start.

Operators are drawn for all networks of a step, the largest and the smallest too, which are so in their sizes: every
branch of a block is trained equally often (FairNAS), and none has the weight of being in each step.
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
    space: ArchitectureSpace, seed: int, step: int, num_random: int, largest_every: int = 1
) -> tuple[Architecture, ...]:
    """The networks of a step: the largest, in every `largest_every`-th one; the smallest; `num_random` drawn ones.

    Each once, but where operators are drawn: leaving one out would leave out a turn of its operators.
    """
    drawn = [draw(space, seed, step * num_random + number) for number in range(num_random)]
    networks = [space.least, *drawn]
    first = step * len(networks)
    networks = [with_operators(space, one, seed, first + place) for place, one in enumerate(networks)]
    if step % largest_every == 0:
        networks.insert(
            0, with_operators(space, space.identity, seed, step // largest_every, of_largest=True)
        )
    if any(knob.kind is KnobKind.OPERATOR for knob in space.knobs):
        return tuple(networks)
    return tuple(one for place, one in enumerate(networks) if one not in networks[:place])


def with_operators(
    space: ArchitectureSpace, candidate: Architecture, seed: int, number: int, of_largest: bool = False
) -> Architecture:
    """The candidate with the operators of the `number`-th draw of a strictly fair sequence.

    The largest networks have a sequence of their own, as they are not in every step.
    """
    salt = ":largest" if of_largest else ":operators"
    drawn = {
        knob.name: _fair_choice(knob, seed, number, salt)
        for knob in space.knobs
        if knob.kind is KnobKind.OPERATOR
    }
    return Architecture({**candidate.choices, **drawn})


def draw(space: ArchitectureSpace, seed: int, number: int) -> Architecture:
    """The `number`-th network, counted from 0, of a strictly fair sequence.

    A knob with m choices takes each of them once in draws 0 to m - 1, once in draws m to 2 m - 1 ..., in random orders
    that do not depend on other knobs (FairNAS).
    """
    return Architecture({knob.name: _fair_choice(knob, seed, number) for knob in space.knobs})


def _fair_choice(knob: ArchitectureKnob, seed: int, number: int, salt: str = "") -> int:
    count = len(knob.choices)
    cycle, place = divmod(number, count)
    entropy = (seed % 2**64, zlib.crc32((knob.name + salt).encode()), count, cycle)
    order = np.random.default_rng(entropy).permutation(count)
    return knob.choices[int(order[place])]
