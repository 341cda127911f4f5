"""A network's shared library in this process: called through its C interface, on the caller's arrays."""

import ctypes
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haqnas.codegen.program import TensorInfo
from haqnas.devices.records import RawArray
from haqnas.errors import DeviceError, ProgramError

ALIGNMENT = 64  # of the workspace


class SharedLibrary:
    """`<name>_run` of a library at `path`. Threads may call `run` at once: each has a workspace of its own."""

    def __init__(
        self,
        path: Path,
        name: str,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        workspace_bytes: int,
    ) -> None:
        try:
            library = _load(path)
            self._run = library[f"{name}_run"]
            self._error_message = library[f"{name}_error_message"]
        except (OSError, AttributeError) as error:
            raise DeviceError(
                f"{path} cannot be loaded into this process: {error}; compile for this machine (--target host)"
            ) from None
        self._error_message.restype = ctypes.c_char_p
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._workspace_bytes = workspace_bytes
        self._workspaces = threading.local()

    def run(self, inputs: Sequence[RawArray]) -> tuple[RawArray, ...]:
        """Raw inputs (n, ...) of the manifest's types to raw outputs (n, ...), record by record.

        Nothing is copied where an input lies in memory in order. Raises ProgramError where the program refuses.
        """
        given = [np.ascontiguousarray(values) for values in inputs]
        records = len(given[0])
        made = [np.empty((records, *info.shape[1:]), info.dtype) for info in self._outputs]
        sources = [
            (values.ctypes.data, info.size_bytes) for values, info in zip(given, self._inputs, strict=True)
        ]
        sinks = [
            (values.ctypes.data, info.size_bytes) for values, info in zip(made, self._outputs, strict=True)
        ]
        workspace = ctypes.c_void_p(self._workspace())
        for index in range(records):
            status = self._run(_pointers(sources, index), _pointers(sinks, index), workspace)
            if status != 0:
                raise ProgramError(f"the network refuses to run: {self._error_message(status).decode()}")
        return tuple(made)

    def _workspace(self) -> int:
        """Address of this thread's workspace."""
        if not hasattr(self._workspaces, "memory"):
            self._workspaces.memory = np.empty(self._workspace_bytes + ALIGNMENT, np.uint8)
        address = int(self._workspaces.memory.ctypes.data)
        return address + -address % ALIGNMENT


def _load(path: Path) -> ctypes.CDLL:
    """By a name that was never used: glibc gives back what it loaded under a name, even where the file is a new one."""
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / path.name
        name.symlink_to(path.resolve())
        return ctypes.CDLL(str(name))


def _pointers(arrays: Sequence[tuple[int, int]], index: int) -> "ctypes.Array[ctypes.c_void_p]":
    """Of record `index` in arrays given by address and bytes of a record."""
    return (ctypes.c_void_p * len(arrays))(*(address + index * size for address, size in arrays))
