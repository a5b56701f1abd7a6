"""The report of one sweep."""

from __future__ import annotations

from dashboards import pictures
from dashboards.collapse import Signs, signs_of
from dashboards.pictures import Pixels
from dashboards.rendering import render_page
from dashboards.sections import progress, provenance, results
from dashboards.sweep import Sweep


def sweep_page(sweep: Sweep, refresh: int | None = None) -> str:
    """The whole page. With `refresh` it says that the sweep is running, and reloads itself after so many seconds.

    The page of a sweep that is finished does not.
    """
    refresh = None if sweep.finished else refresh
    signs, best = _judge_pictures(sweep)
    training, curves = progress.training(sweep)
    sections = [
        ("best", "Best trial", results.best_trial(sweep, best, signs)),
        ("gallery", "Gallery", results.samples(sweep, signs)),
        ("training", "Training", training),
        ("collapse", "Collapse", progress.collapse(sweep, signs)),
        ("search", "Search", progress.search(sweep)),
        ("cost", "Cost", progress.cost(sweep)),
        ("trials", "All trials", progress.all_trials(sweep, signs)),
        ("classifier", "Classifier", provenance.classifiers(sweep)),
        ("reproduce", "Reproduce", provenance.reproduce(sweep)),
    ]
    header = results.header(sweep, signs, refresh)
    return render_page(f"Sweep {sweep.name}", header, sections, f"--sweep {sweep.name}", curves, refresh)


def _judge_pictures(sweep: Sweep) -> tuple[Signs, Pixels | None]:
    """Signs of collapse by trial, from its curves and its last picture; and the picture of the best trial."""
    signs, best, paired = {}, None, not sweep.settings.data_free
    for trial in sweep.trials:
        image = sweep.runs.picture(trial.run.id)
        sheet = None if image is None else pictures.to_pixels(image)
        signs[trial.number] = signs_of(trial, None if sheet is None else pictures.variety(sheet, paired=paired))
        if trial.number == sweep.best.number:
            best = sheet
    return signs, best
