"""The course of a sweep: training, collapse, the search, its cost, and every trial."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from dashboards.collapse import RULES, Signs
from dashboards.cost import cost_of
from dashboards.figures import search as figures
from dashboards.figures.curves import curve_figures
from dashboards.figures.scores import table_metrics
from dashboards.figures.workers import survival, timeline
from dashboards.rendering import badge, format_number, render, sign_list
from dashboards.sweep import Sweep, Trial
from records.format import duration
from records.trial import ENQUEUED, LISTED, STATES


def training(sweep: Sweep) -> tuple[Markup, dict[str, Any] | None]:
    """Curves of all trials, and the data that they are drawn from; None where there are no curves."""
    curves, panels = curve_figures(sweep)
    shown = bool(curves.trials and panels)
    data = {"best": sweep.best.number, "steps": curves.steps, "trials": curves.trials, "metrics": curves.metrics}
    context = {"states": _states(sweep), "curves": curves, "panels": panels, "shown": shown}
    return render("sections/training.html", best=sweep.best.number, **context), data if shown else None


def collapse(sweep: Sweep, signs: Signs) -> Markup:
    """Trials with signs of collapse, and the rules."""
    flagged = [trial for trial in sweep.ranked_all if signs.get(trial.number)]
    rows = [[trial.number, badge(trial.state), trial.value, sign_list(signs[trial.number])] for trial in flagged]
    rules = [[rule.name, rule.says, rule.mend] for rule in RULES]
    return render("sections/collapse.html", sweep=sweep, rows=rows, rules=rules)


def search(sweep: Sweep) -> Markup:
    """The search: history, importance, coordinates, slices, contours, early stopping."""
    shares = figures.importance_shares(sweep)
    importance = figures.importance_bars(sweep, shares) if shares else None
    first = [figures.history(sweep), figures.pareto_front(sweep), importance, survival(sweep)]
    return render(
        "sections/search.html",
        metric=sweep.objective.metric,
        full=len(sweep.ranked),
        states=_states(sweep),
        importance=importance,
        first=[panel for panel in first if panel],
        parallel=figures.parallel_coordinates(sweep),
        slices=figures.slices(sweep, list(shares)),
        contours=figures.contours(sweep, list(shares)),
    )


def cost(sweep: Sweep) -> Markup:
    """The cost of the sweep, and the part that early stopping saved."""
    spent = cost_of(sweep)
    facts: list[tuple[str, object]] = [
        ("trials", len(sweep.trials)),
        ("complete", len(sweep.trials_in("complete"))),
        ("stopped early", len(sweep.trials_in("stopped"))),
        ("failed", len(sweep.trials_in("failed"))),
        ("optimiser steps", f"{spent.steps:,}"),
        ("steps not taken", f"{spent.saved_steps:,}"),
        ("wall time", duration(sweep.seconds)),
        ("time in trials", duration(spent.busy)),
        ("saved by early stopping", duration(spent.saved)),
        ("steps/s of the median trial", format_number(spent.speed, 3)),
        ("steps/s of the whole sweep", format_number(spent.steps / sweep.seconds if sweep.seconds else None, 3)),
        ("workers replaced", sum(trial.lost for trial in sweep.trials)),
    ]
    return render("sections/cost.html", facts=facts, timeline=timeline(sweep))


def all_trials(sweep: Sweep, signs: Signs) -> Markup:
    """A table of all trials, the best first."""
    objective = sweep.objective.metric
    logged = [metric for metric in table_metrics([sweep]) if any(trial.score(metric) is not None for trial in sweep.trials)]
    metrics = list(dict.fromkeys([objective, *logged]))
    names = [dimension.name for dimension in sweep.settings.space]
    rows = [
        [
            trial.number,
            badge(trial.state),
            trial.last_step,
            *[trial.value if metric == objective else trial.score(metric) for metric in metrics],
            *[trial.params.get(name) for name in names],
            sign_list(signs[trial.number]) if signs.get(trial.number) else _remark(trial),
        ]
        for trial in sweep.ranked_all
    ]
    return render("sections/trials.html", head=["trial", "outcome", "steps", *metrics, *names, "remarks"], rows=rows)


def _states(sweep: Sweep) -> list[str]:
    return [state for state in STATES if sweep.trials_in(state)]


def _remark(trial: Trial) -> str:
    source = {LISTED: "the sweep's file", ENQUEUED: "an order by hand"}.get(trial.origin or "", trial.origin)
    if trial.reason:
        return f"failed: {trial.reason}" if trial.state == "failed" else f"stopped {trial.reason}"
    return f"settings of {source}" if source else ""
