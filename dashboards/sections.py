"""The parts of a sweep's report, each a function of the sweep: what was found, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from dashboards import curves, gallery, landscape, page, running, scores
from dashboards.collapse import RULES, Sign
from dashboards.page import Html, element, number, paragraph, text
from dashboards.pictures import Pixels, cell, webp
from dashboards.records import CEILING, OUTCOMES, Sweep, Trial
from dashboards.scores import SCORES

Signs = Mapping[int, Sequence[Sign]]
"""Of collapse, by trial number."""

_WORDS: Final = {"complete": "complete", "stopped": "stopped early", "failed": "failed", "running": "open"}
_TABLE: Final = (*SCORES, "classifier/accuracy", "kkt/rho")


def header(sweep: Sweep, signs: Signs) -> Html:
    """What was searched, and what came of it, in a few sentences."""
    record, best = sweep.record, sweep.best
    searched = ", ".join(dimension.name for dimension in record.space) or "no setting (every trial has the same)"
    lead = [
        f"{len(sweep.trials)} trials of at most {record.horizon:,} steps on {record.dataset}, searching {searched} "
        f"with {record.data.get('sampler', 'an unknown sampler')}.",
        verdict(sweep),
    ]
    parts = [element("h1", f"Sweep {sweep.name}"), *[paragraph(line, class_="lead") for line in lead]]
    if not sweep.finished:
        open_trials = len(sweep.of("running"))
        state = (
            "still running when this page was made, or its driver died" if sweep.store.status == "RUNNING" else "interrupted"
        )
        parts.append(
            paragraph(
                f"Not the last word: the sweep was {state}. {open_trials} {_plural(open_trials, 'trial is', 'trials are')} "
                "open; the command that started it continues it.", class_="alert",
            )
        )  # fmt: skip
    if signs.get(best.number):
        words = "; ".join(sign.words for sign in signs[best.number])
        parts.append(paragraph(f"The best trial shows a sign of collapse: {words}.", class_="alert"))
    parts.append(page.facts(_tiles(sweep, signs)))
    return element("header", *parts)


def verdict(sweep: Sweep) -> str:
    """The best score, and where it lies between the best control and real images."""
    best, metric = sweep.best, sweep.objective.metric
    assert best.value is not None
    found = sweep.evaluation
    score = found.scores[found.generator].get(metric) if found and found.trial == best.number else None
    value = best.value if score is None else score
    line = f"Best: trial {best.number} with {metric} {number(value)}"
    if found is None:
        return line + "; without controls (no evaluation is logged) that number alone says little."
    floor, share = found.floor(metric), found.share(metric, value)
    if floor is None:
        return line + "; this metric has no controls, so see its scores below."
    level = found.level(metric)
    if value <= floor[1]:
        end = "." if level is None else f"; {CEILING} have {number(level)}."
        return f"{line}: no better than {floor[0]}, the best worthless images ({number(floor[1])}){end}"
    if share is None:
        return f"{line}; {floor[0]}, the best worthless images, have {number(floor[1])}."
    return (
        f"{line}, {share:.0%} of the way from {floor[0]} ({number(floor[1])}, the best that worthless images get) "
        f"to {CEILING} ({number(level)})."
    )


def _tiles(sweep: Sweep, signs: Signs) -> list[tuple[str, object]]:
    counts = ", ".join(f"{len(sweep.of(o))} {_WORDS[o]}" for o in OUTCOMES if sweep.of(o))
    spent = running.cost(sweep)
    return [
        (f"best {sweep.objective.metric}", number(sweep.best.value)),
        ("trials", Html(f"{len(sweep.trials)}{element('span', counts, class_='caption')}")),
        ("wall time", duration(sweep.seconds)),
        ("trial time saved by early stopping", duration(spent.saved)),
        ("trials with signs of collapse", str(sum(bool(found) for found in signs.values()))),
    ]


def best_trial(sweep: Sweep, sheet: Pixels | None, signs: Signs) -> Html:
    """The best trial: its picture, its scores beside controls, by class, its settings."""
    best, found = sweep.best, sweep.evaluation
    left: list[object] = []
    if sheet is None:
        left.append(paragraph("No picture of this trial is in MLflow.", class_="note"))
    else:
        classes = list(next(iter(next(iter(found.by_class.values()), {}).values()), {})) if found else []
        left.append(_sheet_figure(best, sheet, classes))
    if sweep.front:
        left.append(paragraph(f"Trials on the Pareto front: {', '.join(map(str, sweep.front))}."))
    right: list[object] = []
    if found:
        if found.trial != best.number:
            right.append(paragraph(
                f"These scores are of trial {found.trial}, the best when the evaluation was made; "
                f"trial {best.number} is better now.",
                class_="alert",
            ))  # fmt: skip
        right += [page.figure(scores.between_floor_and_ceiling(found)), _score_table(found.scores)]
    else:
        right.append(paragraph("No evaluation with controls is logged, so scores stand alone:", class_="note"))
        right.append(page.table(["metric", "last value"], [[m, best.score(m)] for m in _TABLE if best.score(m) is not None]))
    settings = [[name, _setting(value)] for name, value in best.params.items()]
    right.append(page.table(["setting", "value"], settings, caption=f"What was searched, in trial {best.number}"))
    parts: list[object] = [element("div", element("div", *left), element("div", *right), class_="columns")]
    if found and found.by_class:
        parts.append(page.grid(scores.by_class(found)))
    if signs.get(best.number):
        parts.append(paragraph("Signs of collapse: ", _words(signs[best.number]), class_="alert"))
    return page.section("best", f"The best: trial {best.number}", *parts)


def _sheet_figure(trial: Trial, sheet: Pixels, classes: Sequence[str]) -> Html:
    side = cell(sheet)
    columns = (
        f" Columns, from the left: {', '.join(classes)}."
        if classes and side and sheet.shape[1] // side % len(classes) == 0
        else ""
    )
    caption = (
        f"Odd rows: made by trial {trial.number} at step {trial.last_step:,}. Even rows: the training image that is nearest "
        f"to the one above by SSIM, which the generator has never seen.{columns}"
    )
    image = element(
        "img", src=webp(sheet), alt=f"Samples of trial {trial.number} above their nearest training images", class_="sheet"
    )
    return element("figure", image, element("figcaption", caption))


def _score_table(found: Mapping[str, Mapping[str, float]]) -> Html:
    metrics = list(dict.fromkeys(metric for row in found.values() for metric in row))
    rows = [[name, *[row.get(metric) for metric in metrics]] for name, row in found.items()]
    return page.table(
        ["images", *metrics], rows, caption="The generator, then the floors; last, where there is one, the ceiling"
    )


def samples(sweep: Sweep, signs: Signs) -> Html:
    """Pictures of the best and of the worst trials, from the same latents, over training."""
    best, worst = gallery.cards(sweep)
    if not best and not worst:
        return page.section("gallery", "Gallery", paragraph("No trial has a picture in MLflow.", class_="note"))
    steps = sorted({frame.step for card in (*best, *worst) for frame in card.frames})
    parts: list[object] = [
        paragraph("The same latents and labels in every picture: what differs is the trial. Columns are classes."),
    ]
    if any(len(card.frames) > 1 for card in (*best, *worst)):
        slider = element(
            "input", type="range", id="step", min=0, max=len(steps) - 1, step=1, value=len(steps) - 1,
            data_steps=" ".join(map(str, steps)),
        )  # fmt: skip
        label = element("label", "Training step", for_="step")
        parts.append(element("div", label, slider, element("output", f"step {steps[-1]:,}", for_="step"), class_="controls"))
        parts.append(paragraph("Faded: the trial had ended before this step, and its last picture stands.", class_="caption"))
    else:
        parts.append(paragraph("Only last pictures are logged, so there is nothing to slide through.", class_="note"))
    for title, found in (("Best", best), ("Worst", worst)):
        if found:
            parts.append(element("h3", title))
            parts.append(element("div", *[_card(sweep, card, signs) for card in found], class_="grid"))
    return page.section("gallery", "Gallery", element("div", *parts, class_="gallery"))


def _card(sweep: Sweep, card: gallery.Card, signs: Signs) -> Html:
    trial = card.trial
    last = len(card.frames) - 1
    images = [
        element(
            "img", src=frame.url, class_="sheet", data_step=frame.step, hidden=index != last,
            alt=f"Samples of trial {trial.number} at step {frame.step}",
        )
        for index, frame in enumerate(card.frames)
    ]  # fmt: skip
    came = f" {sweep.objective.metric} {number(trial.value)}, {trial.last_step:,} steps"
    caption = [element("strong", f"Trial {trial.number}"), " ", _badge(trial), came]
    if signs.get(trial.number):
        caption += [element("br"), _words(signs[trial.number])]
    return element("div", *images, element("div", *caption, class_="caption"), class_="card", data_last=trial.last_step)


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


def legend(sweep: Sweep, strongest: str) -> Html:
    """What the colours of outcomes mean; `strongest` is the name of the one that stands out."""
    badges = [element("span", _WORDS[o], class_=f"badge {o}") for o in OUTCOMES if sweep.of(o)]
    return paragraph(*[part for badge in badges for part in (badge, " ")], element("span", strongest, class_="badge best"))


def collapses(sweep: Sweep, signs: Signs) -> Html:
    """Which trials show signs of collapse, in words, and by which rules."""
    flagged = [trial for trial in sweep.ranked_all if signs.get(trial.number)]
    parts: list[object] = []
    if flagged:
        parts.append(paragraph(
            f"{len(flagged)} of {len(sweep.trials)} trials show a sign. A sign is about the KKT conditions or the pictures, "
            "not about the score: where other losses carry a trial it may score well all the same."
        ))  # fmt: skip
        rows = [[trial.number, _badge(trial), trial.value, _words(signs[trial.number])] for trial in flagged]
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
            f"Importance of settings is left out: {full} full {_plural(full, 'trial is', 'trials are')} too few to tell, or "
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
        dict.fromkeys([sweep.objective.metric, *(m for m in _TABLE if any(t.score(m) is not None for t in sweep.trials))])
    )
    names = [dimension.name for dimension in sweep.record.space]
    rows = [
        [
            trial.number, _badge(trial), trial.last_step,
            *[trial.value if metric == sweep.objective.metric else trial.score(metric) for metric in metrics],
            *[_setting(trial.params.get(name)) for name in names],
            _words(signs.get(trial.number, ())) if signs.get(trial.number) else text(_failure(trial)),
        ]
        for trial in sweep.ranked_all
    ]  # fmt: skip
    found = page.table(["trial", "outcome", "steps", *metrics, *names, "remarks"], rows, sortable=True)
    return page.section("trials", "All trials", page.details(f"{len(rows)} trials, best first; click a heading to sort", found))


def classifiers(sweep: Sweep) -> Html:
    """What is known of the classifiers: the audit, or how far their training came."""
    parts: list[object] = []
    for audit in sweep.audits:
        parts.append(element("h3", str(audit.get("classifier", "Classifier"))))
        if "verdict" in audit:
            parts.append(paragraph(audit["verdict"]))
        parts.append(_conditions(audit.get("conditions") or []))
        parts.append(_policies(audit.get("lambda") or {}))
    if not sweep.audits:
        parts.append(paragraph("No audit of the classifier is logged; `python -m gbc audit` makes one.", class_="note"))
    for name, regime in sweep.regimes.items():
        if isinstance(regime, dict):
            margins = ", ".join(f"{key} {number(value, 3)}" for key, value in (regime.get("margins") or {}).items())
            pairs = [(key, regime[key]) for key in ("steps", "loss", "accuracy") if key in regime]
            line = ", ".join(f"{key} {number(value) if isinstance(value, float) else value}" for key, value in pairs)
            parts.append(paragraph(element("strong", name), f": {line}{f'; margins {margins}' if margins else ''}"))
    return page.section("classifier", "The classifier", *parts)


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> Html:
    if not conditions:
        return Html("")
    sets = list(conditions[0].get("values", {}))

    def cells(condition: Mapping[str, Any]) -> list[object]:
        cosines = condition.get("cosines") or {}
        shown = [
            f"{number(condition['values'].get(name), 3)}" + (f" ({cosines[name]:.2f})" if name in cosines else "")
            for name in sets
        ]
        return [condition.get("name", ""), *shown, "yes" if condition.get("separates") else "no"]

    caption = (
        "Relative residual of each condition (cosine of its two sides); of use if it tells the training images from others"
    )
    return page.table(["condition", *sets, "of use"], [cells(one) for one in conditions], caption=caption)


def _policies(found: Mapping[str, Any]) -> Html:
    rows = [
        [
            one.get("policy", ""),
            one.get("mode", ""),
            one.get("refused") or ", ".join(one.get("kept") or ()) or "–",
            one.get("same_as") or "",
        ]
        for one in found.get("policies") or []
    ]
    return page.table(["policy of Λ", "BatchNorm", "tensors on the left-hand side", "same as"], rows) if rows else Html("")


def reproduce(sweep: Sweep) -> Html:
    """The resolved settings, the versions, and the commands that give the same."""
    record, tags = sweep.record, sweep.store.tags
    commit = tags.get("mlflow.source.git.commit")
    lines = [f"git checkout {commit}"] if commit else []
    lines += [
        f"python search/run.py --config sweep.yaml --name {record.name}-again   # the file below",
        f"python -m gbc train --config trial-{sweep.best.number:04d}.yaml --out best   # the best trial alone, the file below",
        f"python search/export.py --sweep {record.name} --out exports/{record.name}   # its generator",
    ]
    versions = [[name.removeprefix("version."), value] for name, value in sorted(tags.items()) if name.startswith("version.")]
    versions += [
        [name, tags[name]] for name in ("data.digest", "classifier.digest", "mlflow.source.git.commit") if name in tags
    ]
    best = yaml.safe_dump(_settings_of(sweep, sweep.best), sort_keys=False)
    return page.section(
        "reproduce", "Reproduce",
        element("pre", element("code", "\n".join(lines))),
        paragraph(
            page.download("sweep.yaml", record.text, "Save sweep.yaml"), " · ",
            page.download(f"trial-{sweep.best.number:04d}.yaml", best, f"Save trial-{sweep.best.number:04d}.yaml"),
        ),
        paragraph(
            "Numbers are the same to the last bit with one trial at a time, on the same machine and versions; otherwise they "
            "are close.",
            class_="caption",
        ),
        page.table(["what", "version"], versions) if versions else Html(""),
        page.details("The resolved settings", element("pre", element("code", record.text))),
    )  # fmt: skip


def _settings_of(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """What `python -m gbc train --config` takes: fixed settings, what was sampled, the trial's own seed."""
    seed = trial.logged.settings.get("seed", "")
    return {**sweep.record.trial, **trial.params, **({"seed": int(seed)} if seed.isdigit() else {})}


def duration(seconds: float) -> str:
    """For people: `45 s`, `12 min`, `3.2 h`."""
    if seconds != seconds:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _badge(trial: Trial) -> Html:
    return element("span", _WORDS[trial.outcome], class_=f"badge {trial.outcome}")


def _words(signs: Sequence[Sign]) -> Html:
    return Html("".join(element("span", sign.words, class_="sign", title=sign.name) for sign in signs))


def _failure(trial: Trial) -> str:
    return f"failed: {trial.reason}" if trial.reason else f"settings of {trial.origin}" if trial.origin else ""


def _setting(value: Any) -> object:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else "–" if value is None else str(value)


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
