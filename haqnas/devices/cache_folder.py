"""Where haqnas keeps what it need not make twice: timings, plugins of emulators, modelled cycles."""

import os
from pathlib import Path


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/haqnas`, or `~/.cache/haqnas`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haqnas"
