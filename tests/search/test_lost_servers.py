"""A sweep before an MLflow server: what is seen of it, and what happens when it is killed and comes back. Real servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from gbc.errors import BadInput
from search.spec import faults
from search.spec.config import SweepConfig
from search.spec.faults import HaltMonitor, external_fault, halting
from search.spec.locations import Places
from search.tracking.tracker import Tracker
from tests.conftest import TINY
from tests.support import ROOT
from tests.support.servers import free_port, mlflow_server
from tests.support.workplace import Workplace


def hurry() -> None:
    """Wait for a server for a second, not for a minute."""
    faults.PATIENCE = 1.0


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client is: by default it tries for minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@pytest.mark.usefixtures("_hasty")
@pytest.mark.long
def test_a_server_that_refuses_or_is_gone_is_nobodys_fault_and_its_address_is_not_shown(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow prints links to its server, with the password, and what a sweep prints may be JSON."""
    monkeypatch.chdir(tmp_path)
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", {}) as server:
        uri, shown = server.replace("://", "://me:pa55@"), server.replace("://", "://me@")
        config = config.model_copy(update={"places": Places(tracking_uri=uri)})
        tracker, refused = Tracker(config, {}), HaltMonitor(tmp_path, uri)
        tracker.open_trial(0, {"lr": 0.1})
        tracker.close_trial(0, "complete", None, tmp_path / "none.png")
        tracker.end("FINISHED", None, None, None)
        with refused.guard():
            tracker.discard("nothing")
        fault = f"MLflow's server {shown} "
        assert refused.reason is not None and refused.reason.startswith(fault)
        assert refused.reason.endswith(": RESOURCE_DOES_NOT_EXIST: Run with id=nothing not found")
    for job in (lambda: tracker.open_trial(1, {"lr": 0.1}), lambda: tracker.add_files({"notes.txt": "text"})):
        gone = HaltMonitor(tmp_path, uri)
        with gone.guard():
            job()
        assert gone.reason is not None and gone.reason.startswith(fault) and gone.records_fail
        assert "Connection re" in gone.reason and "pa55" not in gone.reason  # refused; once reset, where one was open
    with pytest.raises(BadInput, match="server running"), halting(tmp_path, uri):  # at the start: nothing has begun
        Tracker(config, {})
    printed = capsys.readouterr()
    assert printed.out == "" and "pa55" not in printed.err
    assert external_fault(FileNotFoundError(2, "No such file"), tmp_path, uri) is None


@pytest.mark.usefixtures("_hasty")
@pytest.mark.sweep
@pytest.mark.long
def test_a_server_that_goes_away_halts_the_sweep_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workplace, port, store = Workplace(tmp_path, before=hurry), free_port(), f"sqlite:///{tmp_path / 'mlflow.db'}"
    file = workplace.file("away", trials=2, trial={**TINY, "steps": 24}, scheduler={"name": "none"})
    command = ["--config", file, "--tracking-uri", f"http://me:pa55@127.0.0.1:{port}"]
    with mlflow_server(tmp_path, store, {}, port):
        process = workplace.start(*command)
        output = workplace.wait_for(process, "  step ")
    more, _ = process.communicate(timeout=60)
    output += more
    assert process.returncode == 130, output
    reason = (
        f"stopped: MLflow's server http://me@127.0.0.1:{port} cannot be used: Connection refused; the same command continues"
    )
    assert output.splitlines()[-1] == reason  # golden
    assert "Traceback" not in output and "pa55" not in output, output
    assert {run.info.status for run in workplace.trials("away")} == {"RUNNING"}  # MLflow did not hear of their end
    assert workplace.reports("away") == 16  # the study did: trials go on meanwhile

    with mlflow_server(tmp_path, store, {}, port) as server:
        code, output = workplace.run_here(*command, "--no-report")
        assert code == 0 and "pa55" not in output, output
        workplace.check_records_agree("away", 2)
        client = MlflowClient(server)
        for run in workplace.trials("away"):
            assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"images", "samples.png"}
            pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images") if "compressed" not in file.path]
            assert len(pictures) == 8, pictures
        code, output = workplace.run_here("--check", "away")
        assert code == 0, output
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"pa55" not in path.read_bytes(), path
