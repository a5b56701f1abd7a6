"""What a sweep found, and how far to trust it: the verdict, the best trial, the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dashboards import gallery, page, running, scores
from dashboards.page import Html, element, number, paragraph
from dashboards.pictures import Pixels, cell, webp
from dashboards.records import CEILING, OUTCOMES, Sweep, Trial
from dashboards.scores import TABLED
from dashboards.words import OUTCOME_WORDS, Signs, badge, duration, in_words, plural, setting


def header(sweep: Sweep, signs: Signs) -> Html:
    """What was searched, and what came of it, in a few sentences."""
    record, best = sweep.record, sweep.best
    searched = ", ".join(dimension.name for dimension in record.space) or "no setting (every trial has the same)"
    lead = [
        f"{len(sweep.trials)} trials of at most {record.horizon:,} steps on {record.dataset}, searching {searched} "
        f"with {record.data.get('sampler', 'an unknown sampler')}.",
        verdict(sweep),
        *sweep.verdict_lines,
    ]
    parts = [element("h1", f"Sweep {sweep.name}"), *[paragraph(line, class_="lead") for line in lead]]
    if not sweep.finished:
        open_trials = len(sweep.of("running"))
        state = (
            "still running when this page was made, or its driver died" if sweep.store.status == "RUNNING" else "interrupted"
        )
        parts.append(
            paragraph(
                f"Not the last word: the sweep was {state}. {open_trials} {plural(open_trials, 'trial is', 'trials are')} "
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
    counts = ", ".join(f"{len(sweep.of(o))} {OUTCOME_WORDS[o]}" for o in OUTCOMES if sweep.of(o))
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
        right.append(page.table(["metric", "last value"], [[m, best.score(m)] for m in TABLED if best.score(m) is not None]))
    settings = [[name, setting(value)] for name, value in best.params.items()]
    right.append(page.table(["setting", "value"], settings, caption=f"What was searched, in trial {best.number}"))
    parts: list[object] = [element("div", element("div", *left), element("div", *right), class_="columns")]
    if found and found.by_class:
        parts.append(page.grid(scores.by_class(found)))
    if signs.get(best.number):
        parts.append(paragraph("Signs of collapse: ", in_words(signs[best.number]), class_="alert"))
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
    caption = [element("strong", f"Trial {trial.number}"), " ", badge(trial), came]
    if signs.get(trial.number):
        caption += [element("br"), in_words(signs[trial.number])]
    return element("div", *images, element("div", *caption, class_="caption"), class_="card", data_last=trial.last_step)
