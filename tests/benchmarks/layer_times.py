"""Time of each layer inside a network, by the executable that times its kernel calls (format `layers`)."""

from collections.abc import Sequence

import haqnas
from tests.benchmarks.ours import layers_executable, run_executable

GLUE = ""  # calls that serve no layer of the user's model


def layer_times_s(artifact: haqnas.Artifact, runs: int, cores: Sequence[int]) -> dict[str, float]:
    """Seconds per layer, in order of the first call: the sum of its calls' medians."""
    calls = run_executable(layers_executable(artifact), ("--layers", str(runs)), cores)["calls"]
    sums: dict[str, float] = {}
    for call in calls:
        sums[call["layer"]] = sums.get(call["layer"], 0.0) + call["median_ns"] * 1e-9
    return sums
