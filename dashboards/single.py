"""The report of one sweep, put together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dashboards import page, pictures, sections
from dashboards.collapse import Sign, signs
from dashboards.pictures import Pixels
from dashboards.records import Sweep


def build(sweep: Sweep) -> str:
    """The whole page."""
    found, best = _look(sweep)
    training, data = sections.training(sweep)
    parts = [
        ("best", "Best trial", sections.best_trial(sweep, best, found)),
        ("gallery", "Gallery", sections.samples(sweep, found)),
        ("training", "Training", training),
        ("collapse", "Collapse", sections.collapses(sweep, found)),
        ("search", "Search", sections.search(sweep)),
        ("cost", "Cost", sections.costs(sweep)),
        ("trials", "All trials", sections.every_trial(sweep, found)),
        ("classifier", "Classifier", sections.classifiers(sweep)),
        ("reproduce", "Reproduce", sections.reproduce(sweep)),
    ]
    made = f"Made {datetime.now():%Y-%m-%d %H:%M} by python dashboards/report.py --sweep {sweep.name}"
    return page.document(f"Sweep {sweep.name}", sections.header(sweep, found), parts, data, made)


def _look(sweep: Sweep) -> tuple[dict[int, Sequence[Sign]], Pixels | None]:
    """Signs of collapse by trial, from its curves and its last picture; and the picture of the best trial."""
    found, best = dict[int, Sequence[Sign]](), None
    for trial in sweep.trials:
        image = sweep.store.picture(trial.logged.run) if trial.logged.run else None
        sheet = None if image is None else pictures.pixels(image)
        found[trial.number] = signs(trial, None if sheet is None else pictures.variety(sheet))
        if trial.number == sweep.best.number:
            best = sheet
    return found, best
