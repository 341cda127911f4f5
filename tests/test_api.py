"""The public calls: progress, resume after a kill, policies, data, several inputs, and what is refused."""

import contextlib
import copy
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import haqnas
from haqnas import stages
from haqnas.compilation import STAGES
from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.quantspec import QuantSpec
from haqnas.resume import STATE, open_output
from haqnas.space.policy import Policy
from tests.cli.models import WITH_DATA

EXAMPLE = (torch.zeros(1, 2, 6, 6),)
KILLED = """
import os, signal, sys
import haqnas

def progress(step):
    if step.stage == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

haqnas.compile_file(sys.argv[1], output=sys.argv[2], progress=progress)
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def images(count: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, 6, 6, generator=generator)
    return TensorDataset(inputs, torch.randint(0, 3, (count,), generator=generator))


def test_progress_names_every_stage_once_in_order(net: Net, tmp_path: Path) -> None:
    seen: list[haqnas.Progress] = []
    haqnas.compile(net, EXAMPLE, output=tmp_path / "out", progress=seen.append)
    assert [step.stage for step in seen] == [*STAGES, "done"]
    assert [step.index for step in seen] == list(range(len(STAGES) + 1))


def test_compile_prints_nothing(net: Net, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    haqnas.compile(net, EXAMPLE, output=tmp_path / "out")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_model_is_unchanged(net: Net, tmp_path: Path) -> None:
    before = copy.deepcopy(net.state_dict())
    net.train()
    haqnas.compile(net, EXAMPLE, output=tmp_path / "out", formats=("a",))
    assert net.training
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


# Resume


@pytest.mark.parametrize("stage", ["quantize", "score", "build", "check", "save"])
def test_killed_run_leaves_nothing_whole_and_the_same_call_goes_on(tmp_path: Path, stage: str) -> None:
    model, output = tmp_path / "net.py", tmp_path / "out"
    model.write_text(WITH_DATA)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(model), str(output), stage],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (output / "manifest.json").exists()
    with pytest.raises(ConfigurationError, match="no complete artefact"):
        haqnas.load(output)
    made: list[str] = []
    artifact = haqnas.compile_file(str(model), output=output, progress=lambda step: made.append(step.stage))
    assert made[-1] == "done"
    assert {check.result for check in artifact.verify()} == {"ok"}
    assert not (output / STATE).exists()


def test_finished_stages_are_not_done_again(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_build(step: haqnas.Progress) -> None:
        if step.stage == "build":
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        haqnas.compile(net, EXAMPLE, output=tmp_path / "out", progress=stop_at_build)
    assert (tmp_path / "out" / STATE).is_dir()

    def fail(*_: object, **__: object) -> Any:
        raise AssertionError("this stage was finished")

    monkeypatch.setattr(stages, "quantized_graph", fail)
    monkeypatch.setattr(stages, "score_accuracy", fail)
    artifact = haqnas.compile(net, EXAMPLE, output=tmp_path / "out")
    assert {check.result for check in artifact.verify()} == {"ok"}


@contextlib.contextmanager
def forbidden_linker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, linking fails the test."""
    products = importlib.import_module("haqnas.products")

    def fail(*_: object, **__: object) -> Any:
        raise AssertionError("the artefact was complete")

    with monkeypatch.context() as patch:
        patch.setattr(products, "link_executable", fail)
        yield


def test_complete_artefact_is_returned_at_once(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = haqnas.compile(net, EXAMPLE, output=tmp_path / "out")
    with forbidden_linker(monkeypatch):
        again = haqnas.compile(net, EXAMPLE, output=tmp_path / "out")
        assert again.manifest == first.manifest
        with pytest.raises(AssertionError):
            haqnas.compile(net, EXAMPLE, output=tmp_path / "out", fresh=True)


def test_other_requests_and_damage_compile_again(net: Net, tmp_path: Path) -> None:
    output = tmp_path / "out"
    requests = [haqnas.compile(net, EXAMPLE, output=output).manifest.request_sha256]
    for options in ({"bits": "w4a8"}, {"seed": 1}, {"calibration_data": images(8)}, {"target": "x86-64-v3"}):
        requests.append(
            haqnas.compile(net, EXAMPLE, output=output, formats=("a",), **options).manifest.request_sha256
        )
    with torch.no_grad():
        net.conv.weight[0, 0, 0, 0] += 1
    requests.append(haqnas.compile(net, EXAMPLE, output=output, formats=("a",)).manifest.request_sha256)
    assert len(set(requests)) == len(requests)
    (output / "lib" / "libmodel.a").write_bytes(b"damaged")
    haqnas.compile(net, EXAMPLE, output=output, formats=("a",)).verify()
    assert not (output / "bin" / "model").exists()  # the first artefact's executable is gone with it


def test_two_runs_in_one_directory_are_refused(net: Net, tmp_path: Path) -> None:
    with (
        open_output(tmp_path / "out"),
        pytest.raises(ConfigurationError, match="another haqnas is compiling"),
    ):
        haqnas.compile(net, EXAMPLE, output=tmp_path / "out")


def test_refused_run_leaves_no_directory(net: Net, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="layers that the model does not have"):
        haqnas.compile(
            net, EXAMPLE, output=tmp_path / "out", bits=Policy(QuantSpec(8, 8), {"conv2": QuantSpec(4, 8)})
        )
    assert not (tmp_path / "out").exists()


# Data and accuracy


def test_accuracy_is_read_on_val_data(net: Net, tmp_path: Path) -> None:
    data = images(30)
    inputs, labels = data.tensors
    artifact = haqnas.compile(
        net, EXAMPLE, output=tmp_path / "out", calibration_data=images(20, 1), val_data=data
    )
    accuracy = artifact.manifest.accuracy
    assert accuracy is not None
    with torch.no_grad():
        expected = float((net(inputs).argmax(1) == labels).double().mean())
    assert (accuracy.metric, accuracy.num_samples, accuracy.data) == ("top-1", 30, "val_data")
    assert accuracy.float_model == pytest.approx(expected)
    (logits,) = artifact.run(inputs.numpy())
    assert accuracy.simulated == pytest.approx(float(np.mean(logits.argmax(1) == labels.numpy())))


def test_part_of_val_data_can_be_scored_and_is_said(net: Net, tmp_path: Path) -> None:
    artifact = haqnas.compile(
        net, EXAMPLE, output=tmp_path / "out", val_data=images(30), val_samples=7, formats=("a",)
    )
    accuracy = artifact.manifest.accuracy
    assert accuracy is not None
    assert (accuracy.num_samples, accuracy.num_available) == (7, 30)


def test_own_evaluate_judges_both_models(net: Net, tmp_path: Path) -> None:
    judged: list[nn.Module] = []

    def evaluate(model: nn.Module, data: Dataset[Any]) -> float:
        judged.append(model)
        return float(len(judged))

    artifact = haqnas.compile(
        net, EXAMPLE, output=tmp_path / "out", val_data=images(3), evaluate=evaluate, formats=("a",)
    )
    accuracy = artifact.manifest.accuracy
    assert accuracy is not None
    assert (accuracy.metric, accuracy.float_model, accuracy.simulated) == ("evaluate", 1.0, 2.0)
    assert judged[0] is net


def test_evaluate_that_gives_no_number_is_told(net: Net, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must return a number"):
        haqnas.compile(
            net, EXAMPLE, output=tmp_path / "out", val_data=images(3), evaluate=lambda _model, _data: "good"
        )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "empty"),
        ([torch.zeros(2, 6, 6)], "must be a pair"),
        ([(torch.zeros(1, 2, 6, 6), 0)], "without batch dimension"),
        ([(np.zeros((2, 6, 6)), 0)], "ndarray"),
        ({0: 1}, "must be a pair"),
        (iter(()), "with a length"),
    ],
)
def test_calibration_data_that_does_not_fit_is_told(net: Net, tmp_path: Path, data: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        haqnas.compile(net, EXAMPLE, output=tmp_path / "out", calibration_data=data)


# Bits, formats, inputs


def test_policy_reaches_the_layers(net: Net, tmp_path: Path) -> None:
    policy = Policy(QuantSpec(8, 8), {"conv": QuantSpec(2, 4)})
    artifact = haqnas.compile(net, EXAMPLE, output=tmp_path / "out", bits=policy, compare=False)
    rows = {row.name: row for row in artifact.manifest.layers}
    for name, expected in (("conv", "w2a4"), ("linear", "w8a8")):
        row = rows[name]
        assert (row.requested, row.simulated, row.emitted) == (expected,) * 3
    assert Policy.from_json((artifact.directory / "policy.json").read_text()) == policy
    assert {check.result for check in artifact.verify()} == {"ok"}


def test_library_for_tvm_is_one_more_format(net: Net, tmp_path: Path) -> None:
    artifact = haqnas.compile(net, EXAMPLE, output=tmp_path / "out", formats=("tvm",))
    assert set(artifact.manifest.files) >= {"lib/libmodel.so", "include/model.h"}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.linear = nn.Linear(5, 4)

    def forward(self, image: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(self.conv(image)), torch.relu(self.linear(facts))


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    examples = (torch.zeros(1, 2, 6, 6), torch.zeros(1, 5))
    data = [((torch.randn(2, 6, 6), torch.randn(5)), 0) for _ in range(8)]
    model = TwoInputs().eval()
    artifact = haqnas.compile(model, examples, output=tmp_path / "out", calibration_data=data)  # type: ignore[arg-type]
    assert {check.result for check in artifact.verify()} == {"ok"}
    given = tuple(torch.stack([sample[0][index] for sample in data]) for index in (0, 1))
    outputs = artifact.run(*(part.numpy() for part in given))
    with torch.no_grad():
        expected = model(*given)
    for output, reference, step in zip(outputs, expected, artifact.manifest.output_steps, strict=True):
        assert output.shape == tuple(reference.shape)
        assert np.abs(output - reference.numpy()).mean() <= 2 * step


def test_float_islands_agree_within_a_step(tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.norm(self.first(x)))

    torch.manual_seed(0)
    artifact = haqnas.compile(Normed(), (torch.zeros(1, 8),), output=tmp_path / "out")
    assert artifact.manifest.is_exact is False
    assert "float" in {row.kind for row in artifact.manifest.layers}
    assert {check.result for check in artifact.verify()} == {"ok"}


def test_unsupported_control_flow_names_the_line(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:  # the line
                return x
            return -x

    with pytest.raises(UnsupportedModelError, match=r"test_api\.py:\d+"):
        haqnas.compile(Branching(), (torch.zeros(1, 4),), output=tmp_path / "out")


def test_name_must_be_a_c_identifier(net: Net, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="starts with a letter"):
        haqnas.compile(net, EXAMPLE, output=tmp_path / "out", name="2net")


def test_importing_errors_loads_no_torch() -> None:
    script = "import sys, haqnas.errors, haqnas.cli.main; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
