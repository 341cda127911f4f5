"""Fine-tuning as part of a compilation: the manifest tells it, a kill does not lose it, and what it refuses."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import haqnas
from haqnas.cli.main import run
from haqnas.errors import ConfigurationError
from tests.cli.command import write
from tests.cli.models import GOOD, WITH_DATA

TRAINED = WITH_DATA + "\ndef train_data():\n    return _data(3)\n"
OPTIONS = {"bits": "w4a4", "qat_epochs": 4.0, "qat_batch_size": 8, "formats": ("a",)}
# A progress callback kills the process in the middle of training, after checkpoints of each step.
KILLED = f"""
import os, signal, sys
import haqnas
from haqnas.train import loop
loop.CHECKPOINT_INTERVAL_S = loop.NOTE_INTERVAL_S = 0.0
notes = []

def progress(step):
    notes.append(step.note)
    if sum(note.startswith("training: ") for note in notes) == 12:
        os.kill(os.getpid(), signal.SIGKILL)

haqnas.compile_file(sys.argv[1], output=sys.argv[2], progress=progress, **{OPTIONS})
"""


def test_training_is_in_the_manifest_and_changes_the_network(tmp_path: Path) -> None:
    model = write(tmp_path, TRAINED)
    trained = haqnas.compile_file(str(model), output=tmp_path / "trained", **OPTIONS)  # type: ignore[arg-type]
    plain = haqnas.compile_file(str(model), output=tmp_path / "plain", bits="w4a4", formats=("a",))
    assert trained.manifest.training is not None
    assert trained.manifest.training.num_steps == 20
    assert trained.manifest.training.epochs == pytest.approx(4.0)
    assert plain.manifest.training is None
    constants = [
        (artifact.directory / "reference/constants.npz").read_bytes() for artifact in (trained, plain)
    ]
    assert constants[0] != constants[1]
    assert haqnas.load(tmp_path / "trained").manifest == trained.manifest


def test_a_run_killed_in_training_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write(tmp_path, TRAINED)
    whole = haqnas.compile_file(str(model), output=tmp_path / "whole", **OPTIONS)  # type: ignore[arg-type]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(model), str(tmp_path / "out")],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    monkeypatch.setattr("haqnas.train.loop.NOTE_INTERVAL_S", 0.0)
    notes: list[str] = []
    resumed = haqnas.compile_file(
        str(model),
        output=tmp_path / "out",
        progress=lambda step: notes.append(step.note),
        **OPTIONS,  # type: ignore[arg-type]
    )
    assert 0 < sum(note.startswith("training: ") for note in notes) < 12  # of 20 steps
    for name in ("reference/graph.json", "reference/constants.npz", "lib/libnet.a"):
        assert (whole.directory / name).read_bytes() == (resumed.directory / name).read_bytes(), name


def test_other_training_is_another_request(tmp_path: Path) -> None:
    model = str(write(tmp_path, TRAINED))
    requests = {
        haqnas.compile_file(
            model, output=tmp_path / str(i), formats=("a",), **options
        ).manifest.request_sha256  # type: ignore[arg-type]
        for i, options in enumerate(({}, {"qat_epochs": 1.0}, {"qat_epochs": 2.0}, {"ptq": "plain"}))
    }
    assert len(requests) == 4


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            GOOD,
            ["--qat-epochs", "1"],
            "needs training data, but there is none; give the model file a function",
        ),
        (GOOD + "\ndef train_data():\n    return []\n", ["--qat-time", "1m"], "train_data is empty"),
        (TRAINED, ["--qat-lr", "0.1"], "learning_rate of fine-tuning is given, but no length"),
        (TRAINED, ["--qat-epochs", "-1"], "--qat-epochs must be greater than 0, but got -1"),
        (TRAINED, ["--qat-epochs", "1", "--qat-augment", "turn"], "flip, crop, cutout, but got turn"),
        (TRAINED, ["--qat-mixup", "0.2"], "mixup of fine-tuning is given, but no length"),
        (TRAINED, ["--qat-time", "soon"], "'soon' is no time; write 90s, 10m or 1.5h"),
        (
            TRAINED,
            ["--ptq", "magic"],
            "--ptq is one of plain, corrected, equalized, gptq, matched, but got 'magic'",
        ),
    ],
)
def test_what_cannot_be_trained_is_a_usage_error(
    text: str, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write(tmp_path, text))
    assert run(["compile", model, "-o", str(tmp_path / "out"), "--quiet", *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (
            torch.randn(20, 5),
            {"qat_augment": ("flip",)},
            r"--qat-augment flip is for images .* \[\(5,\)\]",
        ),
        (torch.randn(20, 5), {"qat_randaugment": 0.3}, r"--qat-randaugment 0.3 is for images .* \[\(5,\)\]"),
    ],
)
def test_augmentation_of_what_is_no_image_is_refused(
    inputs: torch.Tensor, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        haqnas.compile(
            nn.Linear(5, 3),
            (inputs[:1],),
            output=tmp_path / "out",
            train_data=TensorDataset(inputs, torch.randint(0, 3, (20,))),
            qat_epochs=1,
            **options,
        )
