"""How the recipe of a fine-tuning was chosen, in lines of text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haqnas.space.outcome import RecipeRecord

STOPS = {
    "trials": "",
    "space": "; all that is within budget was tried",
    "time": "; the time budget ended it",
    "interrupted": "; interrupted: the same command goes on",
}


def recipe_rows(record: "RecipeRecord | None") -> list[tuple[str, str]]:
    """What was chosen, how the search went, and what each agent's choices add to the score."""
    if record is None:
        return []
    failed = f", {record.num_failed} of them failed" if record.num_failed else ""
    count = f"{record.num_tried} of {record.num_trials}{failed}{STOPS[record.stopped]}"
    by_default = "failed" if record.default_drop is None else f"{record.default_drop:.2%}"
    drop = f"drop {record.drop:.2%}, {by_default} by the default recipe ({record.judged_on})"
    how = f"by {record.strategy}, seed {record.seed}, {record.fidelity} of {record.trial_epochs:g} epochs"
    return [
        ("recipe", ", ".join(f"{name} {choice}" for name, choice in record.choices.items())),
        ("recipe trials", f"{count} ({how}); {drop}"),
        ("recipe credit", ", ".join(f"{agent} {value:+.2g}" for agent, value in record.credit.items())),
    ]
