"""Where in the user's source something happened: the `file:line: source` of errors and of graph nodes."""

import linecache
import os
import re
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

import torch
from torch import fx

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*(?:\n\s+(?P<source>\S.*))?')
_OURS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep


def is_user_file(filename: str) -> bool:
    """Whether a source file belongs to neither PyTorch, nor Python, nor haqnas."""
    if filename.startswith(("<", *_OURS)):
        return False
    return "site-packages" in filename or not filename.startswith(_STANDARD_LIBRARY)


def format_place(filename: str, line: int, source: str | None) -> str:
    """`file:line: source`; the source is read from the file where it is not given."""
    source = (source or linecache.getline(filename, line)).strip()
    return f"{filename}:{line}: {source}" if source else f"{filename}:{line}"


def error_place(trace: TracebackType | None) -> str | None:
    """Innermost line of the user's source in a traceback, as `file:line: source`."""
    for frame in reversed(traceback.extract_tb(trace)):
        if is_user_file(frame.filename) and frame.lineno is not None:
            return format_place(frame.filename, frame.lineno, frame.line)
    return None


def node_place(node: fx.Node) -> str | None:
    """Innermost line of the user's source that made a graph node, as `file:line: source`."""
    for match in reversed(list(_FRAME.finditer(node.meta.get("stack_trace") or ""))):
        if is_user_file(match["file"]):
            return format_place(match["file"], int(match["line"]), match["source"])
    return None


def at(place: str | None) -> str:
    """A line to put after a message, empty where the place is not known."""
    return f"\n  at {place}" if place else ""
