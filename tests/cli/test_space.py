"""`haqnas inspect model.py --space`: what a network could be made smaller by."""

import json

import pytest

from haqnas.cli.main import run
from tests.cli.models import GOOD


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    wide = GOOD.replace("nn.Conv2d(1, 4, 3, padding=1)", "nn.Conv2d(1, 16, 5, padding=2)")
    path.write_text(wide.replace("nn.Linear(4, 3)", "nn.Linear(16, 3)"))
    return str(path)


def test_knobs_are_told_to_programs_and_to_people(model, capfd):
    assert run(["inspect", model, "--space", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    macs = 36 * 25 * 16 + 16 * 3
    assert (document["macs"], document["num_architectures"]) == (macs, 8)
    assert document["knobs"] == [
        {"name": "resolution:x", "kind": "resolution", "layers": ["conv", "linear"], "choices": [6, 3],
         "least_macs": 9 * 25 * 16 + 16 * 3},
        {"name": "width:conv", "kind": "width", "layers": ["conv"], "choices": [16, 8], "least_macs": macs // 2},
        {"name": "kernel:conv", "kind": "kernel", "layers": ["conv"], "choices": [5, 3],
         "least_macs": 36 * 9 * 16 + 16 * 3},
    ]  # fmt: skip
    assert run(["inspect", model, "--space"]) == 0
    text = capfd.readouterr().out
    assert "width:conv" in text
    assert "50.0%" in text
    assert "8 architectures" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--space", "--sensitivity"], "do not go together"), (["--space"], "must be a Python file")],
)
def test_what_has_no_space_is_refused(words, message, tmp_path, capfd):
    assert run(["inspect", str(tmp_path), *words]) == 2
    assert message in capfd.readouterr().err
