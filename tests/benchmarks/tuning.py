"""What tuning gains: a network with kernels chosen by rule beside the same tuned on this host, timed turn by turn.

python -m tests.benchmarks.tuning --only ds_cnn --quick
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import machine, ours, report
from tests.benchmarks.compare import BUILD, QUICK, THOROUGH
from tests.benchmarks.contenders import Executable
from tests.benchmarks.interleave import Ratio, interleave, ratio
from tests.benchmarks.networks import NETWORKS

TUNE_TIME_S, QUICK_TUNE_TIME_S = 20.0, 10.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """A network at 8 bits on one thread: kernels by rule, and by measurement in about `tune_time_s`."""

    network: str
    tune_time_s: float
    by_rule_s: float
    tuned_s: float
    ratio: Ratio  # by rule / tuned
    changed_layers: int  # that got another kernel
    layers: int


def time_tuning(network: str, is_quick: bool) -> Tuning:
    """Compile, check and time both programs; raises VerificationError where one is wrong."""
    tune_time_s = QUICK_TUNE_TIME_S if is_quick else TUNE_TIME_S
    folders = {0.0: "host-w8a8", tune_time_s: f"host-w8a8-tuned-{tune_time_s:.0f}-s"}
    by_rule, tuned = (
        ours.compile_network(network, "host", "8", BUILD / network / folder, tune_time_s=time_s)
        for time_s, folder in folders.items()
    )
    for artifact in (by_rule, tuned):
        ours.check(artifact)
    cores = machine.cores(1)
    runners = [Executable("by rule", by_rule.executable, cores), Executable("tuned", tuned.executable, cores)]
    timings = interleave(runners, QUICK if is_quick else THOROUGH)
    kernels = [
        [layer.kernel for layer in one.manifest.layers if layer.num_weights] for one in (by_rule, tuned)
    ]
    return Tuning(
        network,
        tune_time_s,
        timings["by rule"].median_s,
        timings["tuned"].median_s,
        ratio(timings["by rule"], timings["tuned"]),
        sum(one != other for one, other in zip(*kernels, strict=True)),
        len(kernels[0]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--quick", action="store_true", help="less time to tune, fewer and shorter rounds")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "tuning.json")
    options = parser.parse_args()
    tunings = [time_tuning(network, options.quick) for network in options.only]
    print(report.tunings_text(tunings))
    document = {"machine": machine.describe(), "tunings": [asdict(tuning) for tuning in tunings]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
