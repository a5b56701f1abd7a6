"""Requirements on the best trial of a sweep, and their effect: from the workers' reports to the last lines."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from records.paths import SWEEPS
from search.driver.summary import Summary
from search.files.paths import CLASSIFIERS
from search.policy.ranking import best_trial
from search.run import main
from search.spec.config import SweepConfig
from search.status import read_overview
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep
from tests.support.records import play


def test_reports_are_held_against_what_is_required_and_the_last_lines_say_what_came_of_it(
    classifier_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All trials are played, so that the command has only the last words left, and needs no Ray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(classifier_cache, CLASSIFIERS)
    # One that no trial can meet, and one that all do.
    objective = {"metric": "ssim/coverage", "require": {"kkt/active": 0.999, "loss/total": 1e9}}
    data = tiny_sweep(objective=objective, trials=2)
    Path("tiny.yaml").write_text(yaml.safe_dump(data))
    config = SweepConfig.parse(data, "test")
    play(config, classifier_cache, stop={}, leave={}, fail={})
    entries = Ledger(config, SWEEPS / "tiny").entries()
    for trial in entries:
        (missed,) = trial.missed
        assert missed.startswith("kkt/active 0.") and "0.999" in missed

    (SWEEPS / "tiny" / "summary.json").unlink(missing_ok=True)
    assert main(["--config", "tiny.yaml", "--no-report"]) == 0
    output = capsys.readouterr().out
    assert "KKT conditions" in output
    assert re.search(f"      no .*{re.escape(config.objective.required)}", output), output
    for metric in ("ssim/coverage", "tstr/1nn"):
        assert re.search(rf"      {metric} 0\.\d+: .*class means .*uniform noise", output), output
    best, overview, summary = best_trial(config, entries), read_overview("tiny"), Summary.read(SWEEPS / "tiny")
    assert best is not None and summary is not None
    assert best.number == overview.best_trial == summary.best_trial
    assert len(summary.verdict) == 4 and set(summary.scale) == {"ssim/coverage", "tstr/1nn"}

    assert main(["--config", "tiny.yaml", "--require", "kkt/active=0.05"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"objective\.require\.kkt/active: 0\.999 .*\b0\.05\b", error), error
