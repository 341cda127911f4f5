"""Architectures: which widths, depths, kernel sizes, resolutions and operators a network may have, and those chosen."""

import fnmatch
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from haqnas.errors import ConfigurationError
from haqnas.space.document import read_document

SCHEMA = 1


class KnobKind(StrEnum):
    """What a knob of the architecture sets."""

    WIDTH = "width"  # units that are kept in a group of layers: channels, or groups of a grouped convolution
    DEPTH = "depth"  # blocks of a stage that are kept, the first ones
    KERNEL = "kernel"  # side length
    RESOLUTION = "resolution"  # height of the input image; the width goes with it
    OPERATOR = "operator"  # number of the branch of a haqnas.nn.Choice


@dataclass(frozen=True, slots=True)
class ArchitectureKnob:
    """One choice; the name begins with the kind: `width:layer1.0.conv1`. `layers` are those that it changes."""

    name: str
    kind: KnobKind
    layers: tuple[str, ...]
    choices: tuple[
        int, ...
    ]  # that of the network as it is, then ever smaller ones; branches in the user's order
    labels: tuple[str, ...] = ()  # names of branches, by their numbers

    def label(self, choice: int) -> str:
        """What people read for a choice."""
        return self.labels[choice] if self.labels else str(choice)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is chosen, by the name of the knob; a knob that is not named stays as it is in the network."""

    choices: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def to_json(self, operators: Mapping[str, str] = MappingProxyType({})) -> str:
        """The text of a file that `from_json` reads; `operators` tells people the names of branches, by knob."""
        document = {"schema": SCHEMA, "choices": dict(sorted(self.choices.items()))}
        named = {"operators": dict(sorted(operators.items()))} if operators else {}
        return json.dumps({**document, **named}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "architecture") -> Self:
        """Inverse of `to_json`; raises ConfigurationError that names `source`."""
        document = read_document(text, SCHEMA, source)
        choices = document.get("choices")
        if set(document) - {"operators"} != {"schema", "choices"} or not isinstance(choices, dict):
            raise ConfigurationError(
                f'{source} has the keys "schema" and "choices" (an object of knob to number), '
                f"but got {', '.join(sorted(document))}"
            )
        for name, value in choices.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise ConfigurationError(f"{source}: {name} must be a whole number, but got {value!r}")
        return cls(MappingProxyType(choices))


@dataclass(frozen=True, slots=True)
class ArchitectureSpace:
    """All knobs of a network's architecture; they are independent of each other."""

    knobs: tuple[ArchitectureKnob, ...]

    @property
    def size(self) -> int:
        """Number of architectures."""
        return math.prod(len(knob.choices) for knob in self.knobs)

    @property
    def identity(self) -> Architecture:
        """The network as it is."""
        return Architecture({knob.name: knob.choices[0] for knob in self.knobs})

    @property
    def least(self) -> Architecture:
        """The last choice of every knob; of operators that says nothing of their cost."""
        return Architecture({knob.name: knob.choices[-1] for knob in self.knobs})

    def covers(self, other: "ArchitectureSpace") -> bool:
        """Whether every architecture of `other` is one of this space."""
        choices = {knob.name: set(knob.choices) for knob in self.knobs}
        return all(set(knob.choices) <= choices.get(knob.name, set()) for knob in other.knobs)

    def bounded(self, least: Mapping[str, int]) -> "ArchitectureSpace":
        """The space without choices below `least`, by globs of knobs' names; a knob with one choice left is none.

        Operators have no size and stay. Raises ConfigurationError for a glob that matches no knob of a size.
        """
        sizes = [knob.name for knob in self.knobs if knob.kind is not KnobKind.OPERATOR]
        for glob in least:
            if not fnmatch.filter(sizes, glob):
                raise ConfigurationError(
                    f"no knob matches {glob!r}; the knobs with a size are {', '.join(sizes) or 'none'}"
                )

        def kept_of(knob: ArchitectureKnob) -> ArchitectureKnob:
            if knob.kind is KnobKind.OPERATOR:
                return knob
            bounds = (value for glob, value in least.items() if fnmatch.fnmatchcase(knob.name, glob))
            bound = max(bounds, default=0)
            return replace(knob, choices=tuple(choice for choice in knob.choices if choice >= bound))

        kept = map(kept_of, self.knobs)
        return ArchitectureSpace(tuple(knob for knob in kept if len(knob.choices) > 1))

    def opened(self, shares: Mapping[KnobKind, float]) -> "ArchitectureSpace":
        """The space with a share, 0 to 1, of the smaller choices of each kind, the greater ones first; without one all.

        A knob with one choice left is none. All operators stay: they are in no order of size.
        """
        shares = {**shares, KnobKind.OPERATOR: 1.0}
        kept = [
            replace(
                knob,
                choices=knob.choices[: 1 + math.ceil(shares.get(knob.kind, 1.0) * (len(knob.choices) - 1))],
            )
            for knob in self.knobs
        ]
        return ArchitectureSpace(tuple(knob for knob in kept if len(knob.choices) > 1))

    def operators(self, candidate: Architecture) -> Mapping[str, str]:
        """The names of the branches that a candidate has, by knob."""
        return {
            knob.name: knob.label(candidate.choices.get(knob.name, knob.choices[0]))
            for knob in self.knobs
            if knob.kind is KnobKind.OPERATOR
        }

    def changes(self, candidate: Architecture) -> Mapping[ArchitectureKnob, int]:
        """The knobs that a candidate sets otherwise than the network has them; raises ConfigurationError as `check`."""
        self.check(candidate)
        chosen = ((knob, candidate.choices.get(knob.name, knob.choices[0])) for knob in self.knobs)
        return {knob: value for knob, value in chosen if value != knob.choices[0]}

    def check(self, candidate: Architecture) -> None:
        """Raise ConfigurationError where the candidate sets what is no knob, or to what is no choice."""
        knobs = {knob.name: knob for knob in self.knobs}
        for name, value in candidate.choices.items():
            if name not in knobs:
                raise ConfigurationError(
                    f"the architecture sets {name!r}, which is no knob of the network; its knobs are "
                    f"{', '.join(knobs) or 'none'}"
                )
            if value not in knobs[name].choices:
                allowed = ", ".join(map(str, knobs[name].choices))
                raise ConfigurationError(f"{name} may be {allowed}, but the architecture sets it to {value}")
