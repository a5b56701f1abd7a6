"""The life of a sweep, as far as it needs no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbc import plain_yaml
from records.paths import RECORD
from records.study import SETTINGS
from search.driver.summary import summarise
from search.driver.sweep import finished_summary
from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.store import study_of
from tests.search.conftest import fill
from tests.support.stores import lay_down_store


def test_whether_a_sweep_is_finished_is_read_without_writing(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another driver may hold the sweep, with other settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    folder = sweep_folder(config.name)
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(plain_yaml.dump(config.record()))
    ledger = Ledger(config, folder)
    fill(ledger, *[(0.1, "complete")] * config.trials)
    summarise(config, ledger, lambda _: {}, folder).write(folder)
    ledger.close()
    asked_for = config.model_copy(update={"keep": config.keep + 1})
    summary = finished_summary(asked_for, report=False)
    assert summary is not None and summary.ended_by == "trials"
    assert study_of(config, folder).attributes()[SETTINGS] == config.record()
