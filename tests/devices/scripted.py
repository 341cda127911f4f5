"""A device that runs nothing: its times come from a function, its clock goes as fast as the runs that it reports."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from haqnas.devices.device import Completed
from haqnas.devices.fingerprint import Fingerprint

# (executable, seconds since the start, how many) -> seconds of each run
Times = Callable[[Path, float, int], Sequence[float]]


@dataclass
class ScriptedDevice:
    times: Times
    now_s: float = 0.0
    commands: list[tuple[str, ...]] = field(default_factory=list)
    uri: str = "scripted"
    latency_kind: Literal["measured"] = "measured"

    def clock(self) -> float:
        return self.now_s

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.uri, cpu="of the test")

    def run(
        self, executable: Path, arguments: Sequence[str], timeout_s: float, *_: Any, **__: Any
    ) -> Completed:
        self.commands.append((executable.name, *arguments))
        options: Mapping[str, str] = dict(zip(arguments[::2], arguments[1::2], strict=False))
        times_s = np.asarray(self.times(executable, self.now_s, int(options["--bench"])))
        kept = times_s[: 1 + np.searchsorted(np.cumsum(times_s), float(options["--seconds"]))]
        self.now_s += float(kept.sum())
        times_ns = [round(time_s * 1e9) for time_s in kept]
        return Completed(0, json.dumps({"times_ns": times_ns}), "", float(kept.sum()))
