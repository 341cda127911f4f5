"""Several targets from one model: what they share, what is refused before the work, and a target that fails alone."""

from pathlib import Path

import pytest
import torch

import haqnas
from haqnas import joint_stage, targets
from haqnas.devices.local import read_host_cpu
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.hardware import find_profile
from tests.small_net import Net
from tests.test_joint_stage import INPUTS, OPTIONS, data, network

QUICK = {"bits": "8", "formats": ("a",), "device": "table", "compare": False}
SMALL = (torch.rand(1, 2, 4, 4),)


def compile_small(output: Path, names=("cortex-a76", "x86-64-v3"), **options):
    torch.manual_seed(0)
    return haqnas.compile_for_targets(
        Net().eval(), SMALL, targets=names, output=output, **{**QUICK, **options}
    )


def test_shared_weights_are_trained_once_for_all_targets(tmp_path: Path, monkeypatch):
    trainings, real = [], joint_stage.train_supernet

    def train(*arguments):
        trainings.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(joint_stage, "train_supernet", train)
    shared = {name: value for name, value in OPTIONS.items() if name != "target"}
    told = []

    def go():
        return haqnas.compile_for_targets(
            *(network(), INPUTS),
            targets=("cortex-a76", "x86-avx512-vnni"),
            output=tmp_path / "out",
            train_data=data(),
            progress=told.append,
            cache_folder=tmp_path / "cache",
            **{**shared, "supernet_epochs": 1.0, "trials": 3},
        )

    first, second = go()
    assert len(trainings) == 1
    assert [result.target for result in (first, second)] == ["cortex-a76", "x86-avx512-vnni"]
    for result in (first, second):
        manifest = result.artifact.manifest
        assert result.artifact.directory == tmp_path / "out" / result.target
        assert (manifest.profile.name, manifest.search.num_policies) == (result.target, 3)
        assert result.error is None
        assert not (result.artifact.directory / ".state").exists()
        result.artifact.verify()
    assert [step.index for step in told] == sorted(step.index for step in told)
    assert {step.target for step in told if step.stage == "bits"} == {"cortex-a76", "x86-avx512-vnni"}
    (done,) = [step for step in told if step.index == step.total]
    assert done.stage == "done"
    again = go()
    assert [result.artifact.manifest for result in again] == [
        result.artifact.manifest for result in (first, second)
    ]


def test_an_artefact_is_that_of_its_target_alone(tmp_path: Path):
    one, other = compile_small(tmp_path / "several")
    torch.manual_seed(0)
    alone = haqnas.compile(Net().eval(), SMALL, target=other.target, output=tmp_path / "alone", **QUICK)
    assert alone.manifest == other.artifact.manifest
    assert one.artifact.manifest.profile.name == "cortex-a76"


def test_a_target_that_fails_leaves_the_others_theirs(tmp_path: Path, monkeypatch):
    real = targets.run_task

    def run(subject, task, report, others):
        if task.options.profile.name == "cortex-a76":
            raise DeviceError("the board is on fire")
        return real(subject, task, report, others)

    monkeypatch.setattr(targets, "run_task", run)
    failed, made = compile_small(tmp_path / "out")
    assert failed.artifact is None
    assert str(failed.error) == "the board is on fire"
    assert made.artifact.manifest.profile.name == "x86-64-v3"
    assert not (tmp_path / "out" / "cortex-a76").exists()
    monkeypatch.undo()
    mended, kept = compile_small(tmp_path / "out")
    assert mended.artifact.manifest.profile.name == "cortex-a76"
    assert kept.artifact.manifest == made.artifact.manifest


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {}, "there is no target"),
        (("arm-cpu", "cortex-a72", "arm-cpu"), {}, "--target: arm-cpu is named twice"),
        (("arm-cpu", "z80"), {}, "unknown target 'z80'"),
        (("arm-cpu", "x86-64-v3"), {"device": "local"}, "--device local runs programs of one target"),
        (("arm-cpu", "x86-64-v3"), {"cc": "gcc"}, "--cc gcc compiles for one target"),
        (("arm-cpu", "x86-amx"), {}, "profile 'x86-amx' has no latency table"),
        (("arm-cpu", "x86-64-v3"), {"bits": "w9a9"}, "weight bits must be 1 to 8"),
        (
            ("x86-64-v3", "arm-cpu"),
            {"bits": None, "latency_budget": "5ms"},
            "the device of arm-cpu counts instructions",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(tmp_path: Path, monkeypatch, names, options, message):
    monkeypatch.setattr("haqnas.api.read_subject", None)  # nothing is traced
    with pytest.raises(ConfigurationError, match=message):
        compile_small(tmp_path / "out", names, **options)
    assert not (tmp_path / "out").exists()


def test_host_and_its_own_name_are_one_target(tmp_path: Path):
    name = find_profile("host", read_host_cpu()).name
    with pytest.raises(ConfigurationError, match=f"host and {name} are {name}, which is named twice"):
        compile_small(tmp_path / "out", ("host", name), device=None)


def test_outputs_that_cannot_be_written_are_told_before_any_work(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("haqnas.api.read_subject", None)
    artefact, blocked = tmp_path / "artefact", tmp_path / "blocked"
    artefact.mkdir()
    (artefact / "manifest.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="is an artefact, and several targets have one each below"):
        compile_small(artefact)
    blocked.mkdir()
    (blocked / "x86-64-v3").write_text("a file")
    with pytest.raises(ConfigurationError, match="a file is in the way"):
        compile_small(blocked)
    assert [path.name for path in blocked.iterdir()] == ["x86-64-v3"]
