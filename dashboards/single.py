"""The report of one sweep, put together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dashboards import page, pictures
from dashboards.collapse import Sign, signs
from dashboards.pictures import Pixels
from dashboards.records import Sweep
from dashboards.sections import course, origin, outcome
from dashboards.words import Signs


def build(sweep: Sweep) -> str:
    """The whole page."""
    found, best = _look(sweep)
    training, data = course.training(sweep)
    parts = [
        ("best", "Best trial", outcome.best_trial(sweep, best, found)),
        ("gallery", "Gallery", outcome.samples(sweep, found)),
        ("training", "Training", training),
        ("collapse", "Collapse", course.collapses(sweep, found)),
        ("search", "Search", course.search(sweep)),
        ("cost", "Cost", course.costs(sweep)),
        ("trials", "All trials", course.every_trial(sweep, found)),
        ("classifier", "Classifier", origin.classifiers(sweep)),
        ("reproduce", "Reproduce", origin.reproduce(sweep)),
    ]
    made = f"Made {datetime.now():%Y-%m-%d %H:%M} by python dashboards/report.py --sweep {sweep.name}"
    return page.document(f"Sweep {sweep.name}", outcome.header(sweep, found), parts, data, made)


def _look(sweep: Sweep) -> tuple[Signs, Pixels | None]:
    """Signs of collapse by trial, from its curves and its last picture; and the picture of the best trial."""
    found, best = dict[int, Sequence[Sign]](), None
    for trial in sweep.trials:
        image = sweep.store.picture(trial.logged.run) if trial.logged.run else None
        sheet = None if image is None else pictures.pixels(image)
        found[trial.number] = signs(trial, None if sheet is None else pictures.variety(sheet))
        if trial.number == sweep.best.number:
            best = sheet
    return found, best
