"""The figures of a search: what was tried, how it went, and which agent earned it."""

from collections.abc import Sequence
from typing import Any

from haqnas.report.figures import GREY, TIMES, WEIGHTS, Figure, Trace
from haqnas.report.trials import TrialRow, best_so_far, by_strategy, pareto_front
from haqnas.space.outcome import RecipeRecord, SearchRecord, Unit


def tradeoff_figure(trials: Sequence[TrialRow], unit: Unit) -> Figure | None:
    """Score against latency of all trials, with the Pareto front."""
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        return None
    scale, word = (1e6, "us") if unit == "s" else (1.0, "instructions")
    front = pareto_front(scored)
    points: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": "trials",
        "x": [trial.latency * scale for trial in scored],
        "y": [trial.score for trial in scored],
        "customdata": [index for index, trial in enumerate(trials) if trial.score is not None],
        "hovertext": [f"{trial.strategy} {trial.number}: {trial.reason}" for trial in scored],
        "marker": {
            "size": 9,
            "color": [trial.number for trial in scored],
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": "trial"}},
        },
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [trial.latency * scale for trial in front],
        "y": [trial.score for trial in front],
        "line": {"shape": "hv", "color": GREY},
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": {"title": {"text": f"predicted, {word}"}},
        "yaxis": {"title": {"text": "score"}},
        "legend": {"orientation": "h", "y": 1.12},
    }
    return Figure(
        "tradeoff",
        "What was tried",
        "Each point is a trial; the line is the Pareto front. Click a point for its choices.",
        (line, points),
        layout,
    )


def progress_figure(trials: Sequence[TrialRow]) -> Figure | None:
    """The best score after each trial of bits, of each strategy; failures at the foot."""
    return _progress("progress", "Progress", "The best score after each trial.", trials)


def recipes_figure(trials: Sequence[TrialRow], record: RecipeRecord | None) -> Figure | None:
    """The best score after each short training, of those that led to the recipe."""
    if record is None:
        return None
    caption = (
        f"Each point is a training of {record.trial_epochs:g} epochs by another recipe, the first one by the default. "
        "Click a point for its choices."
    )
    return _progress("recipes", "Recipes of fine-tuning", caption, trials)


def _progress(name: str, title: str, caption: str, trials: Sequence[TrialRow]) -> Figure | None:
    if not any(trial.score is not None for trial in trials):
        return None
    worst = min(trial.score for trial in trials if trial.score is not None)
    failed = [trial for trial in trials if trial.score is None]
    traces: list[Trace] = [_points("trials", trials, [trial.score for trial in trials], {"color": GREY})]
    for strategy, own in by_strategy(trials).items():
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"best of {strategy}",
                "x": [trial.number for trial in own],
                "y": list(best_so_far(own)),
                "line": {"shape": "hv"},
            }
        )
    if failed:
        marker = {"symbol": "x", "color": "#d62728", "size": 9}
        traces.append(_points("failed", failed, [worst] * len(failed), marker))
    layout = {"xaxis": {"title": {"text": "trial"}, "tickformat": "d"}, "yaxis": {"title": {"text": "score"}}}
    return Figure(name, title, caption, tuple(traces), layout)


def _points(
    name: str, trials: Sequence[TrialRow], scores: Sequence[float | None], marker: dict[str, Any]
) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.number for trial in trials],
        "y": list(scores),
        "customdata": [trial.number for trial in trials],
        "hovertext": [f"{trial.strategy} {trial.number}: {trial.reason}" for trial in trials],
        "marker": marker,
    }


def credit_figure(search: SearchRecord | None, recipe: RecipeRecord | None) -> Figure | None:
    """Each agent's share in the score of its search's answer: Shapley values of the critic of all trials."""
    credits = {
        "network and bits, untrained": ({} if search is None else search.credit, TIMES),
        "recipe, by short trainings": ({} if recipe is None else recipe.credit, WEIGHTS),
    }
    bars = tuple(
        {
            "type": "bar",
            "name": name,
            "x": list(credit),
            "y": list(credit.values()),
            "marker": {"color": colour},
        }
        for name, (credit, colour) in credits.items()
        if credit
    )
    if not bars:
        return None
    caption = (
        "What each agent's choices in the answer add to its score, against choices by chance: Shapley values of a "
        "critic of all trials of its search."
    )
    return Figure("credit", "Credit", caption, bars, {"yaxis": {"title": {"text": "score"}}})
