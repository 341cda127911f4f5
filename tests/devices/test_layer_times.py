"""Times of layers inside a network: what a program prints is checked."""

import json
from pathlib import Path

import pytest

from haqnas.devices.device import Completed
from haqnas.devices.layer_times import run_layers
from haqnas.errors import ProgramError


class Printing:
    """A device on which every program ends so."""

    uri, latency_kind = "printing", "measured"

    def __init__(self, exit_code: int, stdout: str, stderr: str = "") -> None:
        self.completed = Completed(exit_code, stdout, stderr, 0.0)

    def run(self, *_: object) -> Completed:
        return self.completed


def test_the_calls_of_a_layer_are_added_up():
    calls = [("conv", 1000), ("fc", 500), ("conv", 250)]
    printed = json.dumps({"calls": [{"layer": layer, "median_ns": time_ns} for layer, time_ns in calls]})
    found = run_layers(Path("net"), 3, Printing(0, printed))
    assert found == pytest.approx({"conv": 1.25e-6, "fc": 5e-7})


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (Printing(1, "", "no such CPU\n"), "net --layers failed on printing: no such CPU"),
        (Printing(0, "garbage"), "net --layers on printing printed no times: 'garbage'"),
        (Printing(0, '{"calls": [{"layer": "conv"}]}'), "printed no times"),
        (Printing(0, '{"calls": [{"layer": "conv", "median_ns": "1"}]}'), "printed no times"),
    ],
)
def test_what_is_no_time_is_refused(device, message):
    with pytest.raises(ProgramError, match=message):
        run_layers(Path("net"), 3, device)
