"""How a sweep went: training, collapses, the search, its cost, and every trial."""

from __future__ import annotations

from dashboards import curves, landscape, page, running
from dashboards.collapse import RULES
from dashboards.page import Html, element, number, paragraph, text
from dashboards.records import Sweep, Trial
from dashboards.scores import TABLED
from dashboards.words import Signs, badge, duration, in_words, legend, plural, setting


def training(sweep: Sweep) -> tuple[Html, Html]:
    """Curves of all trials, and the data that they are drawn from."""
    drawn, found = curves.curves_of(sweep)
    if not drawn.trials or not found:
        return page.section("training", "Training", paragraph("No curves are in MLflow.", class_="note")), Html("")
    data = {"best": sweep.best.number, "steps": drawn.steps, "trials": drawn.trials, "metrics": drawn.metrics}
    options = [
        element("option", f"trial {one['n']}{', the best' if one['n'] == sweep.best.number else ''}", value=one["n"],
                selected=one["n"] == sweep.best.number)
        for one in drawn.trials
    ]  # fmt: skip
    control = element(
        "div", element("label", "Highlight", for_="highlight"), element("select", *options, id="highlight"), class_="controls"
    )
    section = page.section(
        "training", "Training: KKT conditions, multipliers, margins",
        paragraph("Thin: every trial, coloured by how it ended. Bold: the highlighted one. Click a curve to highlight it."),
        legend(sweep, "highlighted"), control, page.grid(found),
    )  # fmt: skip
    return section, page.data_script("curves", data, "curves")


def collapses(sweep: Sweep, signs: Signs) -> Html:
    """Which trials show signs of collapse, in words, and by which rules."""
    flagged = [trial for trial in sweep.ranked_all if signs.get(trial.number)]
    parts: list[object] = []
    if flagged:
        parts.append(paragraph(
            f"{len(flagged)} of {len(sweep.trials)} trials show a sign. A sign is about the KKT conditions or the pictures, "
            "not about the score: where other losses carry a trial it may score well all the same."
        ))  # fmt: skip
        rows = [[trial.number, badge(trial), trial.value, in_words(signs[trial.number])] for trial in flagged]
        parts.append(page.table(["trial", "outcome", sweep.objective.metric, "signs"], rows, sortable=True))
    else:
        parts.append(paragraph("No trial shows a sign of collapse."))
    rules = [[rule.name, rule.says, rule.mend] for rule in RULES]
    parts.append(page.details("The rules, and what to try", page.table(["sign", "rule", "what to try"], rules)))
    parts.append(paragraph("A trial with fewer than four reports is not judged by its curves.", class_="caption"))
    return page.section("collapse", "Signs of collapse", *parts)


def search(sweep: Sweep) -> Html:
    """How the search went: history, importance, coordinates, slices, contours, early stopping."""
    full = len(sweep.ranked)
    shares = landscape.importances(sweep)
    parts: list[object] = []
    first = [landscape.history(sweep)]
    if (two := landscape.front(sweep)) is not None:
        first.append(two)
    if shares:
        first.append(landscape.importance(sweep, shares))
    first.append(running.survival(sweep))
    parts.append(page.grid(first))
    if not shares:
        parts.append(paragraph(
            f"Importance of settings is left out: {full} full {plural(full, 'trial is', 'trials are')} too few to tell, or "
            "all have the same value.", class_="note",
        ))  # fmt: skip
    if (parallel := landscape.parallel(sweep)) is not None:
        parts.append(page.grid([parallel]))
    order = list(shares)
    if slices := landscape.slices(sweep, order):
        parts.append(element("h3", "Slices"))
        parts.append(paragraph(f"{sweep.objective.metric} against each setting, the most important first. Diamond: the best."))
        parts.append(legend(sweep, "the best"))
        parts.append(page.grid(slices))
    if contours := landscape.contours(sweep, order):
        parts.append(element("h3", "Contours"))
        parts.append(paragraph(
            f"Mean {sweep.objective.metric} of the trials near by, over pairs of settings; stronger is better, blank where no "
            "trial lies. Trials that were stopped count with their last value. It smooths over all other settings."
        ))  # fmt: skip
        parts.append(page.grid(contours))
    return page.section("search", "The search", *parts)


def costs(sweep: Sweep) -> Html:
    """What the sweep cost, and what early stopping saved."""
    spent = running.cost(sweep)
    stopped, full = sweep.of("stopped"), len(sweep.of("complete"))
    retries = sum(trial.lost for trial in sweep.trials)
    pairs: list[tuple[str, object]] = [
        ("trials", f"{len(sweep.trials)}"),
        ("complete", f"{full}"),
        ("stopped early", f"{len(stopped)}"),
        ("failed", f"{len(sweep.of('failed'))}"),
        ("optimiser steps", f"{spent.steps:,}"),
        ("steps not taken", f"{spent.saved_steps:,}"),
        ("wall time", duration(sweep.seconds)),
        ("time in trials", duration(spent.busy)),
        ("saved by early stopping", duration(spent.saved)),
        ("steps/s of the median trial", number(spent.speed, 3)),
        ("steps/s of the whole sweep", number(spent.steps / sweep.seconds, 3) if sweep.seconds else "–"),
        ("workers replaced", f"{retries}"),
    ]
    note = paragraph(
        "Saved: the steps that stopped trials did not take, at each trial's own speed. It is time of trials; on the clock, "
        "divide by how many ran at once.", class_="caption",
    )  # fmt: skip
    line = running.timeline(sweep)
    return page.section("cost", "What it cost", page.facts(pairs), note, *([page.grid([line])] if line else []))


def every_trial(sweep: Sweep, signs: Signs) -> Html:
    """A table of all trials, the best first."""
    metrics = list(
        dict.fromkeys([sweep.objective.metric, *(m for m in TABLED if any(t.score(m) is not None for t in sweep.trials))])
    )
    names = [dimension.name for dimension in sweep.record.space]
    rows = [
        [
            trial.number, badge(trial), trial.last_step,
            *[trial.value if metric == sweep.objective.metric else trial.score(metric) for metric in metrics],
            *[setting(trial.params.get(name)) for name in names],
            in_words(signs.get(trial.number, ())) if signs.get(trial.number) else text(_failure(trial)),
        ]
        for trial in sweep.ranked_all
    ]  # fmt: skip
    found = page.table(["trial", "outcome", "steps", *metrics, *names, "remarks"], rows, sortable=True)
    return page.section("trials", "All trials", page.details(f"{len(rows)} trials, best first; click a heading to sort", found))


def _failure(trial: Trial) -> str:
    return f"failed: {trial.reason}" if trial.reason else f"settings of {trial.origin}" if trial.origin else ""
