"""Where haqnas keeps what it need not make twice: timings, plugins of emulators, modelled cycles."""

from pathlib import Path

from haqnas.codegen.link import cache_home


def default_cache_folder() -> Path:
    """The folder `haqnas` among the user's caches."""
    return cache_home() / "haqnas"
