"""Recipes by trials: the default comes first, agents learn from these trials alone, and searches end as others do."""

import os
import signal
from dataclasses import replace

import pytest

from haqnas.bit_trials import Plan
from haqnas.errors import ConfigurationError
from haqnas.recipe_goal import AUG, CANDIDATE, HPO, Lessons, RecipeGoal, recipe_knobs
from haqnas.recipe_trials import Trainer, search_recipe
from haqnas.search import play
from haqnas.search.study import JOURNAL, Decision, Place, Study, read_journal
from haqnas.train.recipe import Recipe

BASE = Recipe(epochs=4)
GOAL = RecipeGoal(
    BASE, recipe_knobs(BASE, (), Lessons(1000, True, True)), ("1: 3 x w4a8", "2: 3 x w2a8", "3: 3 x w2a4")
)


def made_up_drop(candidate, recipe):
    """The second candidate trains best; more learning rate and crops help, flips do harm."""
    drop = (0.05, 0.03, 0.06)[candidate]
    drop += 0.01 * abs(recipe.peak_learning_rate / 0.01 - 1) + 0.01 * recipe.label_smoothing
    return drop + 0.02 * ("flip" in recipe.augmentation) - 0.01 * ("crop" in recipe.augmentation)


class Made:
    def __init__(self, folder, **changes):
        folder.mkdir(exist_ok=True)
        self.trained = []
        plan = Plan(("marl",), 24, None, 1, None, folder, "net marl recipe", "tests", 0)
        self.plan = replace(plan, **changes)

    def find(self, drop_of=made_up_drop, note=lambda _text, _state=None: None):
        def trained(candidate, recipe):
            self.trained.append((candidate, recipe))
            return drop_of(candidate, recipe)

        trainer = Trainer(
            *(trained, lambda _, drop: -drop, lambda candidate: {"latency": 1.0 + candidate}),
            *(lambda: 0.9, "made-up samples", 1.0),
        )
        return search_recipe(GOAL, trainer, self.plan, note)

    def trials(self):
        return [one for one in read_journal(self.plan.folder / JOURNAL) if one.study == self.plan.name]


@pytest.mark.parametrize("strategy", ["marl", "random", "marl-sequential", "evolution"])
def test_the_first_trial_is_the_default_recipe_of_the_best_candidate(strategy, tmp_path):
    made = Made(tmp_path, strategies=(strategy,))
    found = made.find()
    assert made.trained[0] == (0, GOAL.recipe(GOAL.first[0]))
    assert len(made.trained) == len({repr(one) for one in made.trained}) == 24
    assert found.record.default_drop == pytest.approx(made_up_drop(0, BASE))
    assert found.record.drop == min(made_up_drop(*one) for one in made.trained)


def test_what_is_found_is_told(tmp_path):
    notes = []
    made = Made(tmp_path)
    found = made.find(note=lambda text, _state=None: notes.append(text))
    record = found.record
    assert record.drop < record.default_drop - 0.02
    assert GOAL.candidate(found.action) == 1
    assert record.choices == GOAL.words(found.action)
    assert record.choices["flip"] == "no"
    assert set(record.credit) == {CANDIDATE, HPO, AUG}
    assert record.credit[CANDIDATE] > 0
    assert (record.num_tried, record.num_failed, record.stopped, record.fidelity) == (
        24,
        0,
        "trials",
        "short qat",
    )
    assert (record.trial_epochs, record.judged_on, record.study) == (1.0, "made-up samples", made.plan.name)
    assert notes[-1].startswith("recipe by marl: trial 24 of 24, best drop ")
    assert found.study == tmp_path / JOURNAL
    first, *rest = made.trials()
    assert first.choices == GOAL.words(GOAL.first[0])
    assert {one.facts["fidelity"] for one in (first, *rest)} == {"short qat"}
    assert first.facts["accuracy"] == pytest.approx(0.9 - first.facts["drop"])
    assert first.facts["latency"] == 1.0


def test_agents_learn_only_from_trials_in_which_they_acted(tmp_path, monkeypatch):
    """The trials of policies lie in the same journal, and say nothing to the agents of the training."""
    policies = Study(
        Place(tmp_path / JOURNAL, None, "tests"), "net marl", (Decision("conv", "QUANT", ("w8a8", "w4a8")),)
    )
    for action in ((0,), (1,)):
        policies.finish(policies.claim(action, {"fidelity": "ptq"}, 10), 5.0, {})
    told = []

    def spied(name):
        def make(task, rng):
            strategy = load(name)(task, rng)
            learn = strategy.learn
            monkeypatch.setattr(strategy, "learn", lambda trial: (told.append(trial), learn(trial)))
            return strategy

        return make

    load = play.load_strategy
    monkeypatch.setattr(play, "load_strategy", spied)
    made = Made(tmp_path)
    made.find()
    assert len(told) == 23  # the last one is nobody's to learn from
    assert {len(trial.action) for trial in told} == {len(GOAL.decisions())}
    drops = [made_up_drop(*one) for one in made.trained]
    assert [-trial.reward for trial in told] == drops[:23]
    assert [len(one.records()) for one in (policies,)] == [2]


def test_a_run_that_was_killed_goes_on_to_the_same_end(tmp_path):
    whole = Made(tmp_path / "whole")
    wanted = whole.find()

    def dying(candidate, recipe):
        if len(killed.trained) == 9:
            raise RuntimeError("killed")
        return made_up_drop(candidate, recipe)

    killed = Made(tmp_path / "killed")
    with pytest.raises(RuntimeError, match="killed"):
        killed.find(dying)
    again = Made(tmp_path / "killed")
    found = again.find()
    assert len(again.trained) == 24 - 8
    assert (found.action, found.record) == (wanted.action, wanted.record)
    assert killed.trained[:8] + again.trained == whole.trained


def test_a_run_killed_in_its_first_trial_begins_with_it_again(tmp_path):
    def dying(*_):
        raise RuntimeError("killed")

    killed, again = Made(tmp_path), Made(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        killed.find(dying)
    again.find()
    assert again.trained[0] == killed.trained[0] == (0, GOAL.recipe(GOAL.first[0]))
    assert len(again.trained) == 24


def test_trainings_that_fail_are_results(tmp_path):
    def unlucky(candidate, recipe):
        if recipe.peak_learning_rate > 0.02 or candidate == 0:
            raise ConfigurationError("the loss must be finite, but it was nan in training step 3")
        return made_up_drop(candidate, recipe)

    made = Made(tmp_path)
    record = made.find(unlucky).record
    assert record.default_drop is None
    assert 0 < record.num_failed < 24
    failed = [one for one in made.trials() if one.score is None]
    assert len(failed) == record.num_failed
    assert "loss must be finite" in failed[0].facts["failure"]


def test_where_all_fail_the_first_error_is_told(tmp_path):
    def failing(*_):
        raise ConfigurationError("the loss must be finite, but it was nan in training step 3")

    with pytest.raises(ConfigurationError, match=r"all 5 recipes that were tried failed; .* training step 3"):
        Made(tmp_path, num_trials=5).find(failing)


def test_ctrl_c_keeps_the_best_so_far_and_the_same_again_goes_on(tmp_path):
    whole = Made(tmp_path / "whole").find()
    made = Made(tmp_path / "cut")

    def interrupting(candidate, recipe):
        if len(made.trained) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return made_up_drop(candidate, recipe)

    cut = made.find(interrupting).record
    assert (cut.stopped, cut.num_tried) == ("interrupted", 10)
    again = made.find()
    assert len(made.trained) == 24
    assert (again.action, again.record) == (whole.action, whole.record)


def test_a_time_budget_ends_it_after_the_first_trial_at_the_earliest(tmp_path):
    record = Made(tmp_path, time_budget_s=1e-9).find().record
    assert (record.stopped, record.num_tried) == ("time", 1)
    assert record.drop == record.default_drop
    assert Made(tmp_path, time_budget_s=1000.0).find().record.stopped == "trials"


def test_workers_share_the_trials(tmp_path):
    made = Made(tmp_path, num_workers=2)
    record = made.find().record
    assert (record.num_tried, record.stopped) == (24, "trials")
    trials = made.trials()
    assert len({tuple(one.choices.values()) for one in trials}) == 24
    assert trials[0].choices == GOAL.words(GOAL.first[0])
    assert record.drop < record.default_drop


def test_trials_of_a_database_are_copied_beside_those_of_the_policies(tmp_path):
    url = f"sqlite:///{tmp_path}/trials.db"
    made = Made(tmp_path / "one", url=url, num_trials=6)
    first = made.find()
    again = Made(tmp_path / "one", url=url, num_trials=6)
    assert again.find().record == first.record
    assert (len(made.trained), len(again.trained)) == (6, 0)
    assert len(again.trials()) == 6  # one copy
