"""Do the three records of a sweep agree? `python search/run.py --check NAME`, and `--repair` to mend what can be mended."""

from __future__ import annotations

import json
from typing import Any

from search.consistency.collect import audit
from search.consistency.finding import SweepAudit
from search.consistency.repair import WORDS, mend
from search.files.lock import LOCK_HOLDER
from search.files.paths import existing_sweep
from search.spec.faults import halting
from search.study.store import exclusive_driver
from search.tracking.client import address


def run(name: str, *, repair: bool, as_json: bool) -> int:
    """Audit a sweep, mend it if asked, and print what was found. Returns 0 when all records agree, else 1.

    Raises:
        BadInput: an unknown sweep, records that cannot be read, or a repair while a driver holds the sweep.
        Halted: a repair broke off because a disk is full, or a store or MLflow's server is gone.
    """
    sweep, done = existing_sweep(name), list[str]()
    found = audit(sweep)
    if repair and found.live:
        with exclusive_driver(found.config, sweep):  # says who it is
            pass
    if repair and found.findings:
        with halting(sweep, address(found.config)), exclusive_driver(found.config, sweep):
            # A dead driver's note was replaced by ours just now, which goes with the lock.
            done = [f"{one.describe()}: deleted" for one in found.findings if one.file == sweep / LOCK_HOLDER]
            while (mine := audit(sweep, mine=True)).partial:
                done += mend(mine)
            done += mend(mine)
        found = audit(sweep)
    if as_json:
        print(json.dumps(_as_data(found, done), indent=2))
    else:
        _show(found, done, mendable=not repair)
    return 1 if found.findings else 0


def _show(found: SweepAudit, done: list[str], *, mendable: bool) -> None:
    for line in done:
        print(f"repaired  {line}")
    for finding in found.findings:
        print(f"disagree  {finding.describe()}" + (f" ({WORDS[finding.mend]})" if mendable and finding.mend else ""))
    for note in found.notes:
        print(f"note      {note}")
    reports = sum(len(entry.values) for entry in found.entries)
    if found.partial:
        print("note      the rest is looked at when that is mended")
    verdict = f"{len(found.findings)} disagreement{'s' * (len(found.findings) != 1)}" if found.findings else "all records agree"
    print(f"sweep {found.config.name}: {len(found.entries)} trials, {reports} reports: {verdict}")
    if mendable and any(finding.mend for finding in found.findings):
        print(f"  mend  python search/run.py --check {found.config.name} --repair")


def _as_data(found: SweepAudit, done: list[str]) -> dict[str, Any]:
    return {
        "name": found.config.name,
        "agree": not found.findings,
        "running": found.live,
        "trials": len(found.entries),
        "findings": [{"trial": one.trial, "what": one.what, "can_be_mended": one.mend is not None} for one in found.findings],
        "notes": found.notes,
        "repaired": done,
    }
