"""What other distributions add to haqnas by entry points."""

import importlib.metadata
from collections.abc import Iterable
from importlib.metadata import EntryPoint

from haqnas.errors import ConfigurationError


def known_extensions(group: str, noun: str, ours: Iterable[EntryPoint] = ()) -> dict[str, EntryPoint]:
    """Those of a group by name, `ours` first; raises ConfigurationError where two distributions claim one name.

    `noun` is what messages call one: "device", "strategy".
    """
    found = {point.name: point for point in ours}
    for point in importlib.metadata.entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise ConfigurationError(
                f"the {noun} {point.name!r} is claimed twice: by {other.value} and by {point.value}; "
                "uninstall the distribution that you do not want"
            )
    return found
