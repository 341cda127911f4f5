"""The figures of a search: what was tried, how it went, and which agent earned it."""

from collections.abc import Sequence
from typing import Any

from haqnas.report.figures import GREY, TIMES, WEIGHTS, Figure
from haqnas.report.trials import TrialRow, best_so_far, pareto_front
from haqnas.space.outcome import Unit


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
        "customdata": [trial.number for trial in scored],
        "hovertext": [f"trial {trial.number}: {trial.reason}" for trial in scored],
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
    """The best score after each trial; failures at the foot."""
    if not any(trial.score is not None for trial in trials):
        return None
    worst = min(trial.score for trial in trials if trial.score is not None)
    failed = [trial for trial in trials if trial.score is None]
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "trials",
            "x": [trial.number for trial in trials],
            "y": [trial.score for trial in trials],
            "hovertext": [trial.reason for trial in trials],
            "marker": {"color": GREY},
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": [trial.number for trial in trials],
            "y": list(best_so_far(trials)),
            "line": {"shape": "hv", "color": WEIGHTS},
        },
    ]
    if failed:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "failed",
                "x": [trial.number for trial in failed],
                "y": [worst] * len(failed),
                "hovertext": [trial.reason for trial in failed],
                "marker": {"symbol": "x", "color": "#d62728", "size": 9},
            }
        )
    layout = {"xaxis": {"title": {"text": "trial"}, "tickformat": "d"}, "yaxis": {"title": {"text": "score"}}}
    return Figure("progress", "Progress", "The best score after each trial.", tuple(traces), layout)


def credit_figure(trials: Sequence[TrialRow]) -> Figure | None:
    """Each agent's share in the best trial's score: Shapley values of the critic."""
    credited = [trial for trial in trials if trial.score is not None and trial.credit]
    if not credited:
        return None
    best = max(credited, key=lambda trial: (trial.score or 0.0, -trial.number))
    bars = {
        "type": "bar",
        "x": list(best.credit),
        "y": list(best.credit.values()),
        "marker": {"color": TIMES},
    }
    caption = (
        f"What each agent's choices in trial {best.number}, the best that was credited, add to the score that is "
        "expected where all agents draw by their policies (Shapley values of the critic)."
    )
    return Figure("credit", "Credit", caption, (bars,), {"yaxis": {"title": {"text": "score"}}})
