"""Recipes searched as part of a compilation: of several policies or of one, resumed, reported, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import haqnas
from haqnas import recipe_stage, train_stage
from haqnas.artifact import Artifact
from haqnas.cli.main import run
from haqnas.cli.recipes import recipe_rows
from haqnas.errors import ConfigurationError
from haqnas.options import check_options, search_time_s
from haqnas.report.trials import read_trials
from haqnas.search_data import search_split
from haqnas.settings import Settings
from haqnas.train.recipe import Recipe
from tests.cli.command import write
from tests.cli.models import GOOD, WITH_DATA
from tests.small_net import Net
from tests.test_joint_stage import INPUTS, data, network

TRAINED = WITH_DATA + "\ndef train_data():\n    return _data(3)\n"
ASKED = {
    "target": "cortex-a76",
    "device": "table",
    "compare": False,
    "formats": ("a",),
    "qat_epochs": 2.0,
    "qat_recipe": "auto",
    "qat_trials": 4,
}
SEARCHED = {**ASKED, "architecture": "auto", "latency_budget": "60%", "trials": 8}


def small(count: int = 64) -> TensorDataset:
    images = torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(images, torch.arange(count) % 3)


def compiled(folder: Path, **options: Any) -> Artifact:
    """Of two layers."""
    torch.manual_seed(0)
    inputs = (torch.rand(1, 2, 8, 8),)
    return haqnas.compile(Net().eval(), inputs, output=folder, train_data=small(), **options)


def searched(folder: Path, **options: Any) -> Artifact:
    """Of two blocks, with their architecture and bits."""
    return haqnas.compile(network(), INPUTS, output=folder, train_data=data(), **options)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**SEARCHED, "cache_folder": tmp_path_factory.mktemp("cache")}


class Spy:
    """Sees all trainings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: int | None = None) -> None:
        self.short: list[tuple[Recipe, list[int]]] = []
        self.full: list[Recipe] = []
        train_short, train_full = recipe_stage.fine_tune, train_stage.fine_tune

        def short(*arguments: Any, **named: Any) -> Any:
            if len(self.short) == dies_at:
                raise RuntimeError("killed")
            self.short.append((arguments[4], list(arguments[2].indices)))
            return train_short(*arguments, **named)

        def full(*arguments: Any, **named: Any) -> Any:
            self.full.append(arguments[4])
            return train_full(*arguments, **named)

        monkeypatch.setattr(recipe_stage, "fine_tune", short)
        monkeypatch.setattr(train_stage, "fine_tune", full)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> tuple[Artifact, Spy]:
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        return searched(tmp_path_factory.mktemp("whole") / "out", **options), spy


def test_the_winner_of_short_trainings_is_trained_in_full(whole: tuple[Artifact, Spy]) -> None:
    artifact, spy = whole
    record = artifact.manifest.recipe
    assert record is not None
    assert (record.num_tried, record.num_trials, record.trial_epochs) == (4, 4, 0.5)
    assert (record.strategy, record.stopped, record.seed) == ("marl", "trials", 0)
    assert set(record.credit) == {"CANDIDATE", "HPO", "AUG"}
    judged_on = set(search_split(data(), 0).indices)
    for recipe, indices in spy.short:
        assert (recipe.epochs, recipe.time_s) == (0.5, None)
        assert set(indices) == set(range(64)) - judged_on
    (full,) = spy.full
    assert full.epochs == 2.0
    assert f"{full.peak_learning_rate:g}" == record.choices["learning_rate"]
    assert [kind for kind in ("flip", "crop", "cutout") if record.choices[kind] == "yes"] == list(
        full.augmentation
    )
    search = artifact.manifest.search
    assert search is not None
    assert search.predicted_latency <= 0.6 * search.int8_latency
    assert search.packed_weight_bytes == artifact.manifest.sizes.packed_weight_bytes
    assert artifact.manifest.architecture is not None
    assert "CANDIDATE" not in search.credit
    artifact.verify()


def test_reports_keep_the_two_searches_apart(
    whole: tuple[Artifact, Spy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, _ = whole
    rows = dict(recipe_rows(artifact.manifest.recipe))
    assert rows["recipe"].startswith("candidate ")
    assert rows["recipe trials"].startswith("4 of 4 (by marl, seed 0, short qat of 0.5 epochs); drop ")
    assert "CANDIDATE" in rows["recipe credit"]
    trials = read_trials(artifact.directory / "study.journal")
    assert sum(trial.is_of_recipe for trial in trials) == 4
    assert sum(not trial.is_of_recipe for trial in trials) == artifact.manifest.search.num_policies  # type: ignore[union-attr]
    page = tmp_path / "page.html"
    assert run(["report", str(artifact.directory), "-o", str(page)]) == 0
    found = page.read_text()
    (text,) = [part for part in found.split("<script") if 'id="data"' in part.split(">")[0]]
    document = json.loads(text.split(">", 1)[1].split("</script>")[0])
    figures = {figure["name"]: figure for figure in document["figures"]}
    assert len(document["trials"]) == artifact.manifest.search.num_policies  # type: ignore[union-attr]
    assert len(document["recipes"]) == 4
    assert len(figures["recipes"]["traces"][0]["x"]) == 4
    agents = [set(bars["x"]) for bars in figures["credit"]["traces"]]
    assert agents == [{"ARCH", "QUANT"}, {"CANDIDATE", "HPO", "AUG"}]
    assert run(["inspect", str(artifact.directory), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["recipe"]["choices"] == artifact.manifest.recipe.choices  # type: ignore[union-attr]


def test_the_same_again_returns_at_once(
    whole: tuple[Artifact, Spy], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    artifact, _ = whole
    assert searched(artifact.directory, **options).manifest == artifact.manifest
    assert (spy.short, spy.full) == ([], [])


def test_a_run_killed_between_short_trainings_goes_on_to_the_same_bytes(
    whole: tuple[Artifact, Spy], options: dict[str, Any], tmp_path: Path
) -> None:
    wanted, all_of_it = whole
    with pytest.MonkeyPatch.context() as patch:
        killed = Spy(patch, dies_at=2)
        with pytest.raises(RuntimeError, match="killed"):
            searched(tmp_path / "out", **options)
    with pytest.MonkeyPatch.context() as patch:
        again = Spy(patch)
        found = searched(tmp_path / "out", **options)
    assert killed.short + again.short == all_of_it.short
    assert found.manifest.recipe is not None
    assert found.manifest.recipe == wanted.manifest.recipe
    for name in ("reference/constants.npz", "policy.json"):
        assert (found.directory / name).read_bytes() == (wanted.directory / name).read_bytes()


def test_bits_that_were_given_are_trained_by_a_searched_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short by time, it goes on with more of it, and what does not change is not searched."""
    spy = Spy(monkeypatch)
    asked = {**ASKED, "bits": "w4a4", "qat_augment": (), "qat_learning_rate": 0.01}
    short = compiled(tmp_path / "out", **asked, time_budget_s=1e-9)
    record = short.manifest.recipe
    assert record is not None
    assert (record.stopped, record.num_tried, short.manifest.search) == ("time", 1, None)
    assert set(record.credit) == {"HPO", "AUG"}
    assert not {"candidate", "learning_rate", "flip"} & set(record.choices)
    longer = compiled(tmp_path / "out", **asked).manifest.recipe
    assert longer is not None
    assert (longer.stopped, longer.num_tried) == ("trials", 4)
    assert len(spy.short) == 4
    assert {recipe.learning_rate for recipe, _ in spy.short} == {0.01}


def test_forked_workers_train_too(tmp_path: Path) -> None:
    record = compiled(tmp_path / "out", **{**ASKED, "bits": "w4a4", "workers": 2}).manifest.recipe
    assert record is not None
    assert (record.num_tried, record.num_failed) == (4, 0)


def test_the_default_recipe_is_what_fine_tuning_does_without_a_search(tmp_path: Path) -> None:
    plain = {
        name: value for name, value in ASKED.items() if not name.startswith(("qat_recipe", "qat_trials"))
    }
    one = compiled(tmp_path / "one", **{**ASKED, "bits": "w4a4", "qat_trials": 1})
    other = compiled(tmp_path / "other", **{**plain, "bits": "w4a4"})
    assert one.manifest.recipe is not None
    assert one.manifest.recipe.drop == one.manifest.recipe.default_drop
    name = "reference/constants.npz"
    assert (one.directory / name).read_bytes() == (other.directory / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (TRAINED, ["--qat-recipe", "auto"], "but not how long; add --qat-epochs or --qat-time"),
        (
            TRAINED,
            ["--qat-recipe", "best", "--qat-epochs", "1"],
            "--qat-recipe is auto, or left out .* got 'best'",
        ),
        (TRAINED, ["--qat-trials", "4", "--qat-epochs", "1"], "--qat-trials is for a search of recipes; add"),
        (TRAINED, ["--qat-recipe", "auto", "--qat-epochs", "1", "--qat-trials", "0"], "is a number from 1"),
        (
            TRAINED,
            ["--qat-recipe", "auto", "--qat-epochs", "1", "--qat-trial-epochs", "2"],
            "at most that of the whole one .* but got 2",
        ),
        (
            TRAINED,
            ["--qat-recipe", "auto", "--qat-epochs", "1", "--trials", "9"],
            "--trials is for strategies",
        ),
        (GOOD, ["--qat-recipe", "auto", "--qat-epochs", "1"], "needs training data, but there is none"),
    ],
)
def test_what_cannot_be_searched_is_a_usage_error(
    text: str, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write(tmp_path, text))
    assert run(["compile", model, "-o", str(tmp_path / "out"), "--quiet", *options]) == 2
    assert re.search(words, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "out").exists()


def test_too_little_data_says_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="it has only 3 samples; at least 4 are needed"):
        haqnas.compile(
            Net().eval(),
            (torch.rand(1, 2, 8, 8),),
            output=tmp_path / "out",
            train_data=small(3),
            **{**ASKED, "bits": "w4a4"},
        )


def test_two_searches_share_the_time_budget() -> None:
    def each(**options: Any) -> float | None:
        settings = Settings(target="cortex-a76", device="table", qat_epochs=1, time_budget_s=10.0, **options)
        return search_time_s(check_options("net", settings))

    assert each(bits="auto", strategy="marl", qat_recipe="auto") == 5.0
    assert each(bits="auto", strategy="marl") == 10.0
    assert each(bits="auto", qat_recipe="auto") == 10.0  # the integer program takes none of it
    assert each(bits="8", qat_recipe="auto") == 10.0
