"""The cost of a report, by part: `report_cost.py` on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.benchmarks import report_cost
from tests.benchmarks.harness import Options, Row, settings_of

ABOUT: Final = report_cost.ABOUT
LIMIT: Final = 30.0
COLUMNS: Final = report_cost.COLUMNS


def rows(options: Options) -> Iterator[Row]:
    """The whole report, then its parts."""
    if not options.quick:
        return report_cost.rows(options)
    changes = {"batch_size": 32, "report_every": 3, "steps": 9, "classifier.steps": 5, "classifier.hidden": 24}
    return report_cost.rows_of(settings_of("quick", options, **changes), 150, options)
