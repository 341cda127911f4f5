"""Make the latency tables of the shipped profiles again: run it after a change of kernels, on a quiet machine.

python -m tests.benchmarks.shipped cortex-a72 x86-64-v3
"""

import argparse
import sys
from pathlib import Path

import torch

import haqnas
from haqnas.devices.local import read_host_cpu
from haqnas.hardware import profile_path
from tests.benchmarks.networks import NETWORKS

NAMES = ("resnet20", "mobilenet_v2", "ds_cnn", "autoencoder")
# Weights of 8 to 2 bits at 8 bits of activations, and where both have few.
BITS = ("w6a8", "w4a8", "w3a8", "w2a8", "w8a4", "w4a4", "w3a4", "w2a4")


def make(target: str) -> haqnas.Profiled:
    """Measure a target into its own file; the check of the devices' numbers is part of it."""
    networks = []
    for name in NAMES:
        model, inputs = NETWORKS[name]()
        networks.append(haqnas.Network(name, model.eval(), inputs))
    path = profile_path(target, read_host_cpu())
    return haqnas.profile(target, output=path, networks=networks, bits=BITS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    torch.set_num_threads(1)
    for target in parser.parse_args().targets:
        made = make(target)
        legal = ", ".join(map(str, made.legal))
        lines = len(Path(made.path).read_text().splitlines())
        print(f"{target}: {lines} lines, worth choosing {legal}, error {made.table.model.error:.1%}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
