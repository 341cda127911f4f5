"""haqnas itself: compile a network for a target, check the binary, run its own clock.

python -m tests.benchmarks.ours NETWORK TARGET BITS FOLDER
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import haqnas
from haqnas.artifact import GOLDEN_INPUTS, GOLDEN_OUTPUTS, Check, check_binary, decode_arrays
from tests.benchmarks.float_model import read_input, read_output, signal_to_noise_db
from tests.benchmarks.machine import come_first
from tests.benchmarks.networks import NETWORKS, calibration_inputs
from tests.benchmarks.stamps import compiler_stamp

RUN_TIMEOUT_S = 600.0
_STAMP = "sources.sha256"  # beside the artefact


def compile_model(
    model: nn.Module,
    example: Tensor,
    name: str,
    target: str,
    bits: str,
    folder: Path,
    threads: int = 1,
    tune_time_s: float = 0.0,
) -> haqnas.Artifact:
    """Compile, or load the artefact that these very sources made before."""
    stamp, wanted = folder / _STAMP, compiler_stamp()
    output = folder / "artifact"
    if stamp.exists() and stamp.read_text() == wanted:
        return haqnas.load(output)
    samples = calibration_inputs(example)
    data = TensorDataset(samples, torch.zeros(len(samples), dtype=torch.int64))
    artifact = haqnas.compile(
        model,
        (example,),
        target=target,
        bits=bits,
        compare=False,
        calibration_data=data,
        output=output,
        name=name,
        threads=threads,
        tune_time_s=tune_time_s,
        cache_folder=folder / "timings",  # not the user's: what is tuned here is measured here
        formats=("exe", "layers"),
        fresh=True,
    )
    stamp.write_text(wanted)
    return artifact


def compile_network(
    network: str, target: str, bits: str, folder: Path, threads: int = 1, tune_time_s: float = 0.0
) -> haqnas.Artifact:
    """A network of the benchmarks; one thread runs a program that was compiled for one."""
    model, (example,) = NETWORKS[network]()
    return compile_model(model, example, network, target, bits, folder, threads, tune_time_s)


def layers_executable(artifact: haqnas.Artifact) -> Path:
    """The executable that times each of its kernel calls."""
    return artifact.executable.with_name(f"{artifact.executable.name}-layers")


def check(artifact: haqnas.Artifact) -> tuple[Check, ...]:
    """Self test and golden outputs on the artefact's device; raises VerificationError at a difference."""
    inputs, outputs = (
        tuple(arrays[name] for name in sorted(arrays, key=int))
        for arrays in (decode_arrays(artifact.directory / path) for path in (GOLDEN_INPUTS, GOLDEN_OUTPUTS))
    )
    checks = check_binary(artifact, inputs, outputs, None, RUN_TIMEOUT_S)
    not_run = [made.detail for made in checks if made.result != "ok"]
    if not_run:
        raise RuntimeError(f"{artifact.directory} was not checked: {'; '.join(not_run)}")
    return checks


def signal_to_noise(artifact: haqnas.Artifact, folder: Path) -> float:
    """Of the binary's output for the network's input, against the float network; decibels."""
    (given,) = artifact.run(read_input(folder))
    return signal_to_noise_db(read_output(folder), given)


def run_executable(executable: Path, arguments: Sequence[str], cores: Sequence[int]) -> dict[str, Any]:
    """The JSON that `--bench` or `--layers` prints, run on `cores`, one thread on each."""
    threads = ["--threads", str(len(cores))] if len(cores) > 1 else []
    done = subprocess.run(
        [executable, *arguments, *threads],
        capture_output=True,
        text=True,
        check=True,
        timeout=RUN_TIMEOUT_S,
        preexec_fn=partial(come_first, cores),
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main(arguments: list[str]) -> None:
    network, target, bits, folder = arguments
    compile_network(network, target, bits, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
