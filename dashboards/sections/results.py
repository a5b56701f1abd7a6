"""The results of a sweep: the verdict, the best trial, and the gallery of samples."""

from __future__ import annotations

from markupsafe import Markup

from dashboards import gallery
from dashboards.collapse import Signs
from dashboards.cost import cost_of
from dashboards.evaluation import CEILING
from dashboards.figures import scores
from dashboards.figures.scores import table_metrics
from dashboards.pictures import Pixels, tile_side, webp
from dashboards.rendering import STATE_WORDS, format_number, render
from dashboards.sweep import Sweep
from records import repetitions
from records.trial import STATES


def header(sweep: Sweep, signs: Signs, refresh: int | None = None) -> Markup:
    """The sweep and its results in a few sentences and numbers. With `refresh` it is running, and its page reloads itself."""
    return render(
        "sections/header.html",
        sweep=sweep,
        verdict=verdict(sweep),
        signs=signs,
        counts=", ".join(f"{len(sweep.trials_in(state))} {STATE_WORDS[state]}" for state in STATES if sweep.trials_in(state)),
        cost=cost_of(sweep),
        refresh=refresh,
    )


def verdict(sweep: Sweep) -> str:
    """The best score, and its position between the best control and real images."""
    best, metric, evaluation = sweep.best, sweep.objective.metric, sweep.evaluation
    assert best.value is not None
    value = best.value
    if evaluation and evaluation.trial == best.number:
        value = evaluation.scores[evaluation.generator].get(metric, value)
    line = f"Best: trial {best.number} with {metric} {format_number(value)}"
    if sweep.settings.data_free:
        return line + ". That is what the classifier says of its own samples, and no measure of quality."
    if evaluation is None:
        return line + "; without controls (no evaluation is logged) that number alone says little."
    floor, share = evaluation.floor(metric), evaluation.share(metric, value)
    if floor is None:
        return line + "; this metric has no controls, so see its scores below."
    name, lowest, level = floor[0], format_number(floor[1]), evaluation.level(metric)
    if value <= floor[1]:
        end = "." if level is None else f"; {CEILING} have {format_number(level)}."
        return f"{line}: no better than {name}, the best worthless images ({lowest}){end}"
    if share is None:
        return f"{line}; {name}, the best worthless images, have {lowest}."
    return (
        f"{line}, {share:.0%} of the way from {name} ({lowest}, the best that worthless images get) "
        f"to {CEILING} ({format_number(level)})."
    )


def best_trial(sweep: Sweep, sheet: Pixels | None, signs: Signs) -> Markup:
    """The best trial: its picture, its scores beside controls, by class, its settings."""
    best, evaluation, metric = sweep.best, sweep.evaluation, sweep.objective.metric
    metrics = list(dict.fromkeys(m for row in evaluation.scores.values() for m in row)) if evaluation else []
    return render(
        "sections/best.html",
        sweep=sweep,
        picture=None if sheet is None else webp(sheet),
        classes=_classes_of_columns(sweep, sheet),
        scores=scores.between_floor_and_ceiling(evaluation) if evaluation else None,
        metrics=metrics,
        score_rows=[[name, *[row.get(m) for m in metrics]] for name, row in evaluation.scores.items()] if evaluation else [],
        last_scores=[[metric, best.score(metric)] for metric in table_metrics([sweep]) if best.score(metric) is not None],
        repeated=[
            [
                f"trial {repetition.trial}",
                next(trial.value for trial in sweep.trials if trial.number == repetition.trial),
                repetition.describe(),
            ]
            for repetition in sweep.repeated
        ],
        on_seeds=[] if sweep.verdict_lines else repetitions.verdict(metric, sweep.repeated)[1:],  # else in the header
        by_class=scores.scores_by_class(evaluation) if evaluation else [],
        signs=signs.get(best.number),
    )


def _classes_of_columns(sweep: Sweep, sheet: Pixels | None) -> list[str]:
    """The class of each column of a sheet; empty where they are not known."""
    by_metric = next(iter(sweep.evaluation.by_class.values()), {}) if sweep.evaluation else {}
    classes = sweep.class_names or list(next(iter(by_metric.values()), {}))
    side = None if sheet is None else tile_side(sheet)
    return classes if sheet is not None and side and classes and sheet.shape[1] // side % len(classes) == 0 else []


def samples(sweep: Sweep, signs: Signs) -> Markup:
    """Pictures of the best and of the worst trials, from the same latents, over training."""
    best, worst = gallery.best_and_worst(sweep)
    return render(
        "sections/gallery.html",
        sweep=sweep,
        signs=signs,
        groups=[(title, cards) for title, cards in (("Best", best), ("Worst", worst)) if cards],
        steps=sorted({frame.step for card in (*best, *worst) for frame in card.frames}),
        moving=any(len(card.frames) > 1 for card in (*best, *worst)),
    )
