"""Shared weights are trained once for all who ask for the same: other targets, other commands, after a kill."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from haqnas import joint_stage
from haqnas.errors import ConfigurationError
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace
from haqnas.joint_stage import Training, shared_weights
from haqnas.search_data import Given
from haqnas.space.architecture import KnobKind
from haqnas.space.elastic import searched_space
from haqnas.train.supernet_file import weights_sha256
from haqnas.train.supernet_recipe import SupernetRecipe
from tests.test_joint_stage import INPUTS, data, network

RECIPE = SupernetRecipe(epochs=2, batch_size=8)


@pytest.fixture
def given() -> Given:
    model = network()
    batches = [(torch.rand(32, 3, 8, 8),)]
    return Given(model, normalise(trace(model, INPUTS)), INPUTS, batches, "train_data", data(), None)


@pytest.fixture
def training(given, tmp_path: Path) -> Training:
    return Training(searched_space(given.canonical), RECIPE, 0, {}, tmp_path / "cache")


@pytest.fixture
def work(tmp_path: Path):
    """A folder of another request at each call."""
    names = iter("abcdefgh")

    def make() -> Path:
        folder = tmp_path / next(names)
        folder.mkdir()
        return folder

    return make


@pytest.fixture
def trainings(monkeypatch) -> list[SupernetRecipe]:
    """The recipe of each training that took place."""
    seen, real = [], joint_stage.train_supernet

    def train(*arguments):
        seen.append(arguments[4])
        return real(*arguments)

    monkeypatch.setattr(joint_stage, "train_supernet", train)
    return seen


def cached(training: Training, pattern: str) -> list[Path]:
    return sorted(training.cache_folder.rglob(pattern))


def test_another_request_takes_the_weights_that_are_there(given, training, work, trainings):
    notes: list[str] = []
    first, second = (shared_weights(given, training, work(), notes.append) for _ in range(2))
    assert len(trainings) == 1
    assert weights_sha256(first) == weights_sha256(second)
    assert "supernet: trained before (2 epochs)" in notes
    assert {path.name for path in cached(training, "*") if path.is_file()} == {"lock", "weights.npz"}


def test_what_weights_follow_from_tells_them_apart(given, training, work, trainings):
    shared_weights(given, training, work(), print)
    others = [
        (given, replace(training, seed=1)),
        (given, replace(training, versions={"haqnas": "next"})),
        (given, replace(training, recipe=replace(RECIPE, epochs=1))),
        (replace(given, train_data=data(80)), training),
        (replace(given, batches=[(torch.zeros(32, 3, 8, 8),)]), training),
    ]
    found = {weights_sha256(shared_weights(*other, work(), print)) for other in others}
    assert len(trainings) == 1 + len(others)
    assert len(cached(training, "weights.npz")) == 1 + len(others)
    assert len(found) > 1


def test_weights_of_more_architectures_serve_too(given, training, work, trainings):
    part = training.space.opened(dict.fromkeys(KnobKind, 0.25))
    assert part.size < training.space.size
    narrow = replace(training, space=part)
    shared_weights(given, narrow, work(), print)
    whole = shared_weights(given, training, work(), print)
    assert len(trainings) == 2
    assert whole.space == training.space
    other = replace(training, cache_folder=work())
    wide = shared_weights(given, other, work(), print)
    served = shared_weights(given, replace(narrow, cache_folder=other.cache_folder), work(), print)
    assert len(trainings) == 3
    assert weights_sha256(served) == weights_sha256(wide)
    served.cut(part.least, given.batches)


def test_weights_that_are_not_trained_are_not_kept(given, training, work):
    free = replace(training, recipe=SupernetRecipe(time_s=0))
    shared_weights(replace(given, train_data=None), free, work(), print)
    assert not cached(training, "*")


def test_without_data_nothing_is_trained(given, training, work):
    with pytest.raises(ConfigurationError, match="needs training data"):
        shared_weights(replace(given, train_data=None), training, work(), print)


def test_a_damaged_file_is_made_again(given, training, work, trainings):
    whole = weights_sha256(shared_weights(given, training, work(), print))
    (path,) = cached(training, "weights.npz")
    path.write_bytes(path.read_bytes()[:-100])
    assert weights_sha256(shared_weights(given, training, work(), print)) == whole
    path.unlink()
    path.with_name("training.pt").write_bytes(b"no checkpoint")
    assert weights_sha256(shared_weights(given, training, work(), print)) == whole
    assert len(trainings) == 3


def test_an_interrupted_training_goes_on_for_another_request(given, training, work, monkeypatch):
    whole = weights_sha256(shared_weights(given, replace(training, cache_folder=work()), work(), print))
    monkeypatch.setattr("haqnas.train.loop.CHECKPOINT_INTERVAL_S", 0.0)
    steps: list[Tensor] = []
    real = joint_stage.train_supernet.__globals__["read_batch"]

    def read(*arguments):
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(arguments[2])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("haqnas.train.supernet.read_batch", read)
        with pytest.raises(KeyboardInterrupt):
            shared_weights(given, training, work(), print)
    assert cached(training, "training.pt")
    numbers: list[int] = []

    def count(*arguments):
        numbers.append(arguments[2])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("haqnas.train.supernet.read_batch", count)
        assert weights_sha256(shared_weights(given, training, work(), print)) == whole
    assert numbers == list(range(3, 8))
    assert not cached(training, "training.pt")


def test_two_commands_at_a_time_train_once(given, training, work, trainings):
    """The second waits, and takes what the first has made."""
    notes: list[str] = []
    places = [work(), work()]
    threads = [
        threading.Thread(target=lambda place=place: shared_weights(given, training, place, notes.append))
        for place in places
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1
    assert (places[0] / "supernet.npz").exists()
    assert (places[1] / "supernet.npz").exists()
    assert sum(note.startswith("supernet: trained before") for note in notes) == 1
