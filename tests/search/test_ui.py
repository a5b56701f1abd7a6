"""MLflow's pages where sweeps have several stores: real ones, a database here and a server elsewhere."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from records.paths import RECORD, STUDY_FILE
from search import ui
from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.tracking import ui_view
from search.tracking.tracker import Tracker
from tests.search.conftest import tiny_sweep
from tests.support import missing
from tests.support.servers import mlflow_server


def make(name: str, tracking_uri: str | None = None) -> SweepConfig:
    """A sweep as far as its folder knows."""
    config = SweepConfig.parse(tiny_sweep(name=name, places={"tracking_uri": tracking_uri}), "test")
    sweep_folder(name).mkdir(parents=True)
    (sweep_folder(name) / RECORD).write_text(yaml.safe_dump(config.record()))
    (sweep_folder(name) / STUDY_FILE).touch()
    return config


@pytest.mark.long
def test_each_sweep_is_linked_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", f"sqlite:///{tmp_path / 'server' / 'mlflow.db'}", {}) as server:
        MlflowClient(server).create_experiment("somebody's")  # so that ours has another number than here
        far, near = make("far", server.replace("://", "://me:pa55@")), make("near")
        make("gone", "http://127.0.0.1:1")
        make("other", f"sqlite:///{tmp_path / 'other.db'}")
        far_experiment, near_experiment = Tracker(far, {}).experiment, Tracker(near, {}).experiment
        assert far_experiment != near_experiment
        shown = server.replace("://", "://me@")
        linked = [f"MLflow on {shown}", f"  far  {shown}{ui_view.path(far, far_experiment)}"]

        process = subprocess.Popen(
            [sys.executable, str(Path(ui.__file__))], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a script starts it in the background
        )  # fmt: skip
        patience = threading.Timer(120, process.kill)
        patience.start()
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "--sweep other" in line:
                break
        patience.cancel()
        process.terminate()
        assert process.wait(20) == 0, "\n".join(lines)
        head, *rest = lines[1:] if "is taken" in lines[0] else lines
        assert head.startswith("MLflow on http://127.0.0.1:") and "Ctrl-C" in head
        assert rest[0] == f"  near  {head.split()[2]}{ui_view.path(near, near_experiment)}"
        assert rest[1:3] == linked
        assert rest[3].startswith("note: MLflow store http://127.0.0.1:1: ") and "refused" in rest[3]
        assert rest[4].endswith(f" sqlite:///{tmp_path / 'other.db'}")
        assert rest[5:] == ["  other  python search/ui.py --sweep other"]

        assert ui.main(["--sweep", "far"]) == 0
        assert capsys.readouterr().out.splitlines() == linked
        assert ui.main(["--sweep", "other"]) == 2
        assert f"sqlite:///{tmp_path / 'other.db'}" in capsys.readouterr().err
        Path("mlflow.db").unlink()  # nothing to serve, and something to show
        assert ui.main([]) == 0
        assert capsys.readouterr().out.splitlines()[:2] == linked


@pytest.mark.parametrize(
    "damage", [b"name: [", b"- a list", b"trials: many\nsampler: best\n", b"\xff\xfe", None], ids=lambda damage: repr(damage)
)
def test_a_damaged_record_keeps_no_other_sweep_from_being_shown(
    damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make("damaged"), make("whole")
    record = sweep_folder("damaged") / RECORD
    record.unlink() if damage is None else record.write_bytes(damage)
    assert [config.name for config in ui._sweeps(None)] == ["whole"]
    (line,) = capsys.readouterr().out.splitlines()
    assert not missing(["sweep damaged", str(record)], line)
    assert ui.main([]) == 2  # for this folder has no store
    assert not missing(["mlflow.db", "MLFLOW_TRACKING_URI"], capsys.readouterr().err)
    assert ui.main(["--sweep", "damaged"]) == 2
    assert str(record) in capsys.readouterr().err
