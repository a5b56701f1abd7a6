"""Pictures of a trial over its steps, in a real MLflow store."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console

from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder
from search.files.paths import step_picture, sweep_folder, trial_folder
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.tracking.step_images import KEY
from search.tracking.tracker import Tracker
from tests.support.stores import lay_down_store


@pytest.fixture
def tracker(config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    open_tracker = Tracker(config, {})
    for number in (0, 1):
        open_tracker.open_trial(number, {"lr": 0.1})
    return open_tracker


def leave(folder: Path, step: int, grey: int) -> Path:
    content = io.BytesIO()
    Image.new("L", (8, 8), grey).save(content, "PNG")
    folder.mkdir(exist_ok=True)
    path = folder / step_picture(step)
    path.write_bytes(content.getvalue())
    return path


def shown(tracker: Tracker, number: int) -> list[int]:
    run = tracker.run(number)
    assert run is not None
    names = [Path(file.path).name for file in MlflowClient(tracker.uri).list_artifacts(run, "images")]
    return sorted(int(name.split("+")[2]) for name in names if name.startswith(f"{KEY}+step+") and name.endswith(".png"))


def test_pictures_are_moved_once(tracker: Tracker, config: SweepConfig, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    leave(folder, 3, 10)
    (folder / "samples.png").write_bytes(b"the last one")
    (folder / ".samples-000006.png.1234").write_bytes(b"half")
    tracker.show(0, folder)
    leave(folder, 3, 10)  # the driver was killed before it could delete it
    leave(folder, 6, 20)
    after = Tracker(config, {})
    after.show(0, folder)
    assert shown(after, 0) == [3, 6]
    assert sorted(path.name for path in folder.iterdir()) == [".samples-000006.png.1234", "samples.png"]
    run = MlflowClient(tracker.uri).get_run(after.run(0) or "")
    assert run.data.tags["mlflow.loggedImages"] == "True"
    leave(folder, 9, 30)
    after.show(7, folder)  # a trial that MLflow does not know
    assert (folder / step_picture(9)).exists()


def test_a_run_that_takes_anothers_place_has_its_pictures(tracker: Tracker, config: SweepConfig, tmp_path: Path) -> None:
    for step in (3, 6):
        leave(tmp_path / "trial", step, step)
    tracker.show(0, tmp_path / "trial")
    source = tracker.run(0)
    assert source is not None
    tracker.copy_pictures(source, 1)
    assert shown(tracker, 1) == [3, 6]
    leave(tmp_path / "trial", 6, 6)
    tracker.show(1, tmp_path / "trial")
    assert shown(tracker, 1) == [3, 6]


@pytest.mark.parametrize("kept", [0, 8, 45], ids=["empty", "head alone", "cut short"])
def test_a_damaged_picture_is_named_once_and_holds_up_nothing(
    kept: int, tracker: Tracker, config: SweepConfig, tmp_path: Path
) -> None:
    folder, screen = sweep_folder(config.name), io.StringIO()
    folder.mkdir(parents=True)
    ledger = Ledger(config, folder)
    recorder = Recorder(ledger, tracker, ProgressDisplay(config, Console(file=screen, width=300)), tmp_path)
    number, pictures = ledger.ask().number, trial_folder(tmp_path, 0)
    pictures.mkdir(parents=True)
    leave(pictures, 3, 10)
    damaged = leave(pictures, 6, 20)
    damaged.write_bytes(damaged.read_bytes()[:kept])
    for step in (3, 6, 9, 12):
        ledger.record(number, step, 0.5, stop=False)
    leave(pictures, 9, 30)
    recorder.ended(number)
    recorder.finish()
    ledger.close()
    assert shown(tracker, 0) == [3, 9]
    named = [line for line in screen.getvalue().splitlines() if str(damaged) in line]
    assert len(named) == 1, screen.getvalue()
    tracker.show(0, pictures)
    assert tracker.news() == []
    leave(pictures, 6, 20)  # the trial was trained again from there
    tracker.show(0, pictures)
    assert shown(tracker, 0) == [3, 6, 9]
