"""Recipes as a game for strategies: what may be chosen of a fine-tuning, by which agent, and around which defaults.

Its length is no decision: a longer training nearly always scores better, so that a search would only find the longest.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from haqnas.search.critic import Action
from haqnas.search.study import Decision
from haqnas.train.recipe import Augmentation, Recipe

CANDIDATE, HPO, AUG = "CANDIDATE", "HPO", "AUG"

LEARNING_RATES = (0.2, 0.5, 1.0, 2.0, 5.0)  # times the default
WEIGHT_DECAYS = (0.0, 1.0, 10.0)  # times the default
BATCH_SIZES = (0.5, 1.0, 2.0)  # times the default
LABEL_SMOOTHINGS = (0.0, 0.05, 0.1)
DISTILLATIONS = (0.0, 0.35, 0.7, 1.0)
RANDAUGMENTS = (0.0, 0.2, 0.5)
MIXUPS = (0.0, 0.2)
# Decisions that may interact, by name.
PAIRS = (
    ("candidate", "learning_rate"),
    ("learning_rate", "weight_decay"),
    ("learning_rate", "batch_size"),
    ("label_smoothing", "distillation"),
    ("randaugment", "mixup"),
)


@dataclass(frozen=True, slots=True)
class RecipeKnob:
    """One choice: a field of Recipe, or a kind of augmentation with the values no and yes."""

    name: str
    agent: str
    values: tuple[Any, ...]
    default: int  # index of what is chosen without a search

    @property
    def words(self) -> tuple[str, ...]:
        """The values as a person reads them."""
        names = {False: "no", True: "yes"}
        return tuple(names[value] if isinstance(value, bool) else f"{value:g}" for value in self.values)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What of the training data matters to what can be chosen."""

    num_samples: int
    are_images: bool
    have_labels: bool  # that the network learns, beside the teacher's outputs


def recipe_knobs(base: Recipe, fixed: Collection[str], lessons: Lessons) -> tuple[RecipeKnob, ...]:
    """Choices around `base`; `fixed` names fields of Recipe that the user gave, which are not chosen."""
    sizes = [round(base.batch_size * factor) for factor in BATCH_SIZES]
    sizes = [size for size in sizes if size == base.batch_size or 2 <= size <= lessons.num_samples]
    found = [
        _knob(
            "learning_rate",
            HPO,
            [base.peak_learning_rate * by for by in LEARNING_RATES],
            base.peak_learning_rate,
        ),
        _knob("weight_decay", HPO, [base.decay * by for by in WEIGHT_DECAYS], base.decay),
        _knob("batch_size", HPO, sizes, base.batch_size),
    ]
    if lessons.have_labels:
        found += [
            _knob("label_smoothing", HPO, LABEL_SMOOTHINGS, base.label_smoothing),
            _knob("distillation", HPO, DISTILLATIONS, base.distillation),
        ]
    if lessons.are_images:
        found += [
            *(_knob(kind, AUG, (False, True), kind in base.augmentation) for kind in get_args(Augmentation)),
            _knob("randaugment", AUG, RANDAUGMENTS, base.randaugment),
            _knob("mixup", AUG, MIXUPS, base.mixup),
        ]
    kinds = set(get_args(Augmentation)) if "augmentation" in fixed else set()
    return tuple(knob for knob in found if knob.name not in {*fixed, *kinds} and len(knob.values) > 1)


def _knob(name: str, agent: str, values: Sequence[Any], default: Any) -> RecipeKnob:
    ordered = tuple(sorted({*values, default}))
    return RecipeKnob(name, agent, ordered, ordered.index(default))


@dataclass(frozen=True, slots=True)
class RecipeGoal:
    """Which of the `candidates`, told in words, best first, is trained, and how; where there is one, only how."""

    base: Recipe
    knobs: tuple[RecipeKnob, ...]
    candidates: tuple[str, ...]

    @property
    def has_candidates(self) -> bool:
        """Whether the first decision is which of them."""
        return len(self.candidates) > 1

    def decisions(self) -> tuple[Decision, ...]:
        first = (Decision("candidate", CANDIDATE, self.candidates),) if self.has_candidates else ()
        return (*first, *(Decision(knob.name, knob.agent, knob.words) for knob in self.knobs))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Decisions that may interact."""
        places = {decision.name: place for place, decision in enumerate(self.decisions())}
        return tuple((places[a], places[b]) for a, b in PAIRS if a in places and b in places)

    @property
    def first(self) -> tuple[Action, ...]:
        """What trials begin with: the best candidate by the default recipe, then the others."""
        defaults = tuple(knob.default for knob in self.knobs)
        if not self.has_candidates:
            return (defaults,)
        return tuple((index, *defaults) for index in range(len(self.candidates)))

    def candidate(self, action: Action) -> int:
        """Which one is trained."""
        return action[0] if self.has_candidates else 0

    def recipe(self, action: Action) -> Recipe:
        """How, for the length of the base."""
        options = action[1:] if self.has_candidates else action
        chosen = {knob.name: knob.values[option] for knob, option in zip(self.knobs, options, strict=True)}
        kinds = {kind: kind in self.base.augmentation for kind in get_args(Augmentation)}
        kinds |= {name: value for name, value in chosen.items() if name in kinds}
        fields = {name: value for name, value in chosen.items() if name not in kinds}
        return replace(self.base, augmentation=tuple(kind for kind in kinds if kinds[kind]), **fields)

    def words(self, action: Action) -> dict[str, str]:
        """What is chosen, by the name of the decision."""
        return {one.name: one.options[option] for one, option in zip(self.decisions(), action, strict=True)}
