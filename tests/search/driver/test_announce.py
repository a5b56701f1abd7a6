from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from search.driver import announce
from search.driver.resources import Machine
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep

MACHINE = Machine(cpus=4, gpus=0, concurrency=4, cpus_per_trial=1, gpus_per_trial=0)


@pytest.mark.parametrize(
    ("changes", "made", "seconds"),
    [
        ({"trials": 1}, [], 12),  # nothing to stop it, and no other trial beside it
        ({"trials": 2}, [], 12),
        ({"trials": 1}, [6], 6),
        ({"trials": 2}, [6], 12),
        ({"trials": 1, "max_steps": 4}, [], 4),
        ({"trials": 16, "scheduler": {"name": "none"}}, [], 48),
    ],
)
def test_the_estimate_has_time_for_the_whole_of_one_trial(
    changes: dict[str, object], made: list[int], seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial has 12 steps and makes one a second; four run at once."""
    monkeypatch.chdir(tmp_path)
    config = SweepConfig.parse(tiny_sweep(**changes), "test")
    ledger = Ledger(config, tmp_path)
    for step in made:
        ledger.record(ledger.ask().number, step, 0.1, stop=False)
        ledger.flush()
    output = io.StringIO()
    announce.run(config, MACHINE, 1.0, ledger, Console(file=output, width=400))
    assert f": about {seconds} s once" in output.getvalue()
