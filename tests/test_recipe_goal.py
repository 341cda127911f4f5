"""Recipes as a game: what can be chosen, by whom, and that the defaults are the recipe as it was given."""

from dataclasses import replace

import pytest

from haqnas.recipe_goal import AUG, CANDIDATE, HPO, Lessons, RecipeGoal, recipe_knobs
from haqnas.settings import Settings, given_recipe, recipe_of
from haqnas.train.recipe import Recipe

LESSONS = Lessons(num_samples=1000, are_images=True, have_labels=True)
AUGMENTS = ["flip", "crop", "cutout", "randaugment", "mixup"]
HYPERS = ["learning_rate", "weight_decay", "batch_size", "label_smoothing", "distillation"]


def names_of(base=None, fixed=(), lessons=LESSONS):
    return [knob.name for knob in recipe_knobs(base or Recipe(epochs=4), fixed, lessons)]


def goal_of(base=None, fixed=(), lessons=LESSONS, candidates=("1: w4a8", "2: w2a8")):
    base = base or Recipe(epochs=4)
    return RecipeGoal(base, recipe_knobs(base, fixed, lessons), candidates)


def test_agents_and_what_they_decide():
    goal = goal_of()
    decisions = goal.decisions()
    assert [one.name for one in decisions] == ["candidate", *HYPERS, *AUGMENTS]
    assert [one.agent for one in decisions] == [CANDIDATE, *[HPO] * 5, *[AUG] * 5]
    assert decisions[0].options == goal.candidates
    assert decisions[1].options == ("0.001", "0.0025", "0.005", "0.01", "0.025")
    assert decisions[6].options == ("no", "yes")
    assert all(len(one.options) == len(set(one.options)) > 1 for one in decisions)
    names = [one.name for one in decisions]
    assert ("candidate", "learning_rate") in {(names[a], names[b]) for a, b in goal.pairs}
    assert all(a < b for a, b in goal.pairs)


def test_what_the_data_do_not_allow_is_no_choice():
    assert names_of(lessons=replace(LESSONS, are_images=False)) == HYPERS
    without = names_of(lessons=replace(LESSONS, have_labels=False))
    assert without == ["learning_rate", "weight_decay", "batch_size", *AUGMENTS]
    (few,) = [
        knob
        for knob in recipe_knobs(Recipe(epochs=1), (), replace(LESSONS, num_samples=100))
        if knob.name == "batch_size"
    ]
    assert few.values == (64, 128)  # the default stays, a batch is then as large as the data


def test_what_the_user_gave_is_no_choice():
    settings = Settings(qat_epochs=2, qat_learning_rate=0.02, qat_augment=("crop",), qat_distillation=1.0)
    base, fixed = recipe_of(settings), given_recipe(settings)
    assert names_of(base, fixed) == ["weight_decay", "batch_size", "label_smoothing", "randaugment", "mixup"]
    goal = goal_of(base, fixed)
    changed = goal.recipe((1, 0, 0, 2, 1, 1))
    assert (changed.learning_rate, changed.augmentation, changed.distillation) == (0.02, ("crop",), 1.0)
    assert (changed.label_smoothing, changed.mixup) == (0.1, 0.2)
    none = Settings(qat_epochs=2, qat_augment=())
    assert "flip" not in names_of(recipe_of(none), given_recipe(none))
    everything = {*HYPERS, "augmentation", "randaugment", "mixup"}
    assert goal_of(fixed=everything, candidates=("1: w4a8",)).decisions() == ()


@pytest.mark.parametrize(
    "base",
    [
        Recipe(epochs=4),
        Recipe(time_s=60.0, optimizer="adamw"),
        Recipe(
            epochs=2, learning_rate=0.03, weight_decay=0.0, augmentation=("flip",), mixup=0.7, batch_size=3
        ),
    ],
)
def test_the_first_action_is_the_best_candidate_and_the_recipe_as_given(base):
    goal = goal_of(base)
    first, second = goal.first
    assert (goal.candidate(first), goal.candidate(second)) == (0, 1)
    for action in goal.first:
        same = replace(base, learning_rate=base.peak_learning_rate, weight_decay=base.decay)
        assert goal.recipe(action) == same
    alone = goal_of(base, candidates=("1: w4a8",))
    assert alone.first == (first[1:],)
    assert alone.candidate(alone.first[0]) == 0
    assert [one.agent for one in alone.decisions()].count(CANDIDATE) == 0


def test_every_action_is_a_recipe_of_the_same_length():
    goal = goal_of()
    counts = [len(one.options) for one in goal.decisions()]
    for option in range(5):
        action = tuple(min(option, count - 1) for count in counts)
        recipe = goal.recipe(action)
        assert (recipe.epochs, recipe.time_s) == (4, None)
        words = goal.words(action)
        assert words["learning_rate"] == f"{recipe.learning_rate:g}"
        assert words["cutout"] == ("yes" if "cutout" in recipe.augmentation else "no")
