"""Do the three records of a sweep agree? `python search/run.py --check NAME`, and `--repair` to mend what can be mended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gbc.command_line import progress
from search.consistency.collect import audit
from search.consistency.finding import SweepAudit
from search.consistency.repair import REPAIRS, mend
from search.files.lock import LOCK_HOLDER
from search.files.paths import existing_sweep
from search.spec.faults import halting
from search.study.store import exclusive_driver
from search.tracking.client import address

_SHOWN_FROM: Final = 20  # trials; fewer are read in a moment


def run(name: str, *, repair: bool, as_json: bool) -> int:
    """Audit a sweep, mend it if asked, and print what was found. Returns 0 when all records agree, else 1.

    Raises:
        BadInput: an unknown sweep, records that cannot be read, or a repair while a driver holds the sweep.
        Halted: a repair broke off because a disk is full, or a store or MLflow's server is gone.
    """
    sweep, done = existing_sweep(name), list[str]()
    result = audit(sweep, with_progress=_with_progress)
    if repair and result.live:
        with exclusive_driver(result.config, sweep):  # says who it is
            pass
    if repair and result.findings:
        with halting(sweep, address(result.config)), exclusive_driver(result.config, sweep):
            # A dead driver's note was replaced by ours just now, which goes with the lock.
            done = [f"{finding.describe()}: deleted" for finding in result.findings if finding.file == sweep / LOCK_HOLDER]
            while (mine := audit(sweep, mine=True, with_progress=_with_progress)).partial:
                done += mend(mine)
            done += mend(mine)
        result = audit(sweep, with_progress=_with_progress)
    if as_json:
        print(json.dumps(_as_data(result, done), indent=2))
    else:
        _show(result, done, mendable=not repair)
    return 1 if result.findings else 0


def _with_progress(label: str, elements: Sequence[Any]) -> Iterator[Any]:
    """The elements, with progress on stderr."""
    with progress(label, len(elements), shown_from=_SHOWN_FROM) as advance:
        for element in elements:
            yield element
            advance(1)


def _show(result: SweepAudit, done: list[str], *, mendable: bool) -> None:
    for line in done:
        print(f"repaired  {line}")
    for finding in result.findings:
        print(f"disagree  {finding.describe()}" + (f" ({REPAIRS[finding.mend]})" if mendable and finding.mend else ""))
    for note in result.notes:
        print(f"note      {note}")
    reports = sum(len(trial.values) for trial in result.entries)
    if result.partial:
        print("note      the rest is looked at when that is mended")
    verdict = (
        f"{len(result.findings)} disagreement{'s' * (len(result.findings) != 1)}" if result.findings else "all records agree"
    )
    print(f"sweep {result.config.name}: {len(result.entries)} trials, {reports} reports: {verdict}")
    if mendable and any(finding.mend for finding in result.findings):
        print(f"  mend  python search/run.py --check {result.config.name} --repair")


def _as_data(result: SweepAudit, done: list[str]) -> dict[str, Any]:
    return {
        "name": result.config.name,
        "agree": not result.findings,
        "running": result.live,
        "trials": len(result.entries),
        "findings": [
            {"trial": finding.trial, "what": finding.what, "can_be_mended": finding.mend is not None}
            for finding in result.findings
        ],
        "notes": result.notes,
        "repaired": done,
    }
