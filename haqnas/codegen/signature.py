"""Signatures: what a call's time depends on besides its function, as text such as `rows=8 columns=8 channels=64 ...`.

Calls of one function with one signature take the same time on one device: values of weights, scales, tables and zero
points are left out, since no kernel's path depends on them. The text is a key of measured tables, so it is stable,
readable, and its numbers can be read back.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from haqnas.kernels.pieces import Nest
from haqnas.kernels.row import Geometry, grid


def of_layer(g: Geometry) -> str:
    """Of a layer with weights, or a part of one."""
    fields = {
        "rows": (g.rows,),
        "columns": (g.columns,),
        "channels": (g.channels,),
        "length": (g.length,),
        "taps": (len(g.offsets),),
        "in": (g.in_row, g.in_column),
        "out": (g.out_row, g.out_column),
    }
    shape = grid(g.offsets)
    offsets = "x".join(map(str, shape[:2])) + f"@{shape[2]},{shape[3]}" if shape else _digest(g.offsets)
    words = [_words(fields), f"grid={offsets}"]
    if g.kind == "grouped":
        words.append(f"group={g.group_out}")
    if g.residual is not None:
        words.append(f"residual={g.residual.row},{g.residual.column}")
    return " ".join(words)


def of_loops(nest: Nest) -> str:
    """Of an elementwise operator."""
    strides = ";".join(",".join(map(str, steps)) for steps in nest.strides)
    return f"extents={'x'.join(map(str, nest.extents))} strides={strides}"


def of_numbers(**fields: int | Sequence[int]) -> str:
    """Of anything else: names and numbers; long lists are told by their length and a digest."""
    return _words({name: (value,) if isinstance(value, int) else value for name, value in fields.items()})


def _words(fields: Mapping[str, Sequence[int]]) -> str:
    return " ".join(f"{name}={_numbers(values)}" for name, values in fields.items())


def _numbers(values: Sequence[int]) -> str:
    return ",".join(map(str, values)) if len(values) <= 8 else f"{len(values)}#{_digest(values)}"


def _digest(values: Iterable[int]) -> str:
    return hashlib.sha256(",".join(map(str, values)).encode()).hexdigest()[:12]
