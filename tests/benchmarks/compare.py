"""One network against all peers: files made once, everybody timed turn by turn, our outputs checked.

python -m tests.benchmarks.compare --only resnet20 --quick
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import machine, ours, report
from tests.benchmarks.contenders import OURS, REPOSITORY, Executable, PeerProcess, Runner, prepare
from tests.benchmarks.interleave import Ratio, Schedule, Timing, best_peer, interleave, ratio
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.peers import PEERS
from tests.benchmarks.session import UnsupportedError
from tests.benchmarks.stamps import peer_stamp

BUILD = REPOSITORY / "build" / "bench"
THOROUGH = Schedule(rounds=11, turn_s=0.3)
QUICK = Schedule(rounds=5, turn_s=0.1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All contenders on one network with so many threads."""

    network: str
    cores: tuple[int, ...]
    timings: Mapping[str, Timing]
    snr_db: Mapping[str, float]  # against the float network; every contender computes the same thing
    unsupported: Mapping[str, str]
    best: str
    ratio: Ratio  # best peer / ours
    checks: tuple[str, ...]  # of our binary


def prepare_all(network: str, peers: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """Make the files of all peers that are not there; gives the folder and who cannot run this network."""
    folder = BUILD / network
    unsupported = {}
    for peer in ("float", *peers):
        done, stamp = folder / f"{peer}.prepared", peer_stamp(peer)
        made_by, _, reason = done.read_text().partition("\n") if done.exists() else ("", "", "")
        if made_by != stamp:
            reason = prepare(peer, network, folder)
            done.write_text(f"{stamp}\n{reason}")
        if reason:
            unsupported[peer] = reason
    return folder, unsupported


def compare(network: str, cores: tuple[int, ...], schedule: Schedule, peers: Sequence[str]) -> Comparison:
    """Time everybody on `cores`, one thread on each; raises VerificationError where our binary is wrong."""
    folder, unsupported = prepare_all(network, peers)
    threads = len(cores)
    own = folder / ("host-w8a8" if threads == 1 else f"host-w8a8-{threads}-threads")
    artifact = ours.compile_network(network, "host", "8", own, threads)
    checks = tuple(f"{check.name}: {check.detail}" for check in ours.check(artifact))
    names = [(peer, variant) for peer in peers if peer not in unsupported for variant in PEERS[peer]]
    snr_db = {OURS: ours.signal_to_noise(artifact, folder)}
    with ExitStack() as stack:
        runners: list[Runner] = [Executable(OURS, artifact.executable, cores)]
        for peer, variant in names:
            try:
                process = stack.enter_context(PeerProcess(peer, variant, folder, cores))
            except UnsupportedError as reason:
                unsupported[f"{peer} {variant}"] = str(reason)
                continue
            snr_db[process.name] = process.snr_db
            runners.append(process)
        timings = interleave(runners, schedule)
    best = best_peer(timings, OURS)
    return Comparison(
        network,
        cores,
        timings,
        snr_db,
        unsupported,
        best,
        ratio(timings[best], timings[OURS]),
        checks,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "compare.json")
    options = parser.parse_args()
    schedule = QUICK if options.quick else THOROUGH
    results = []
    for network in options.only:
        for threads in options.threads:
            results.append(compare(network, machine.cores(threads), schedule, options.peers))
            print(report.comparison_text(results[-1]), flush=True)
    document = {"machine": machine.describe(), "comparisons": [asdict(result) for result in results]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
