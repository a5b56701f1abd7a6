"""A study in PostgreSQL and an MLflow server before another database of it: real servers, real sweeps, a real kill -9."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.event
import yaml
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError

from gbc.errors import BadInput
from search import ui
from search.files.paths import sweep_folder
from search.run import main
from search.spec.config import SweepConfig
from search.spec.faults import Halted, halting
from search.study import store as studies
from search.study.ledger import Ledger
from search.study.orders import Order, give, recorded_orders
from search.tracking import relocation
from search.tracking.client import experiments
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support import ROOT, missing
from tests.support.servers import NEEDS_POSTGRES, Postgres, mlflow_server
from tests.support.workplace import Workplace

pytestmark = [pytest.mark.sweep, *NEEDS_POSTGRES]


@pytest.fixture(scope="module")
def tracking(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = server.url("mlflow", password=True)
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), store, {}) as uri:
        yield uri


@pytest.fixture(autouse=True)
def _password(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", server.password)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@dataclass
class Far(Workplace):
    """Sweeps whose records are on servers."""

    folder: Path
    server: Postgres
    uri: str
    before: None = None
    dataset: str = "fashion_mnist"
    fresh_workers: bool = False

    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def study(self, name: str) -> list[Any]:
        import optuna

        storage = optuna.storages.RDBStorage(self.server.url("studies"))
        trials = optuna.load_study(study_name=name, storage=storage).trials
        storage.remove_session()
        storage.engine.dispose()
        return trials


@pytest.mark.long
def test_a_sweep_with_both_records_on_servers(server: Postgres, tracking: str, tmp_path: Path) -> None:
    workplace = Far(tmp_path, server, tracking)
    # From a URL with the password in it, which must be nowhere afterwards.
    file = workplace.file("far", trials=2, trial={**TINY, "steps": 24}, scheduler={"name": "none"})
    command = ["--config", file, "--study-url", server.url("studies", password=True), "--tracking-uri", tracking]
    process = workplace.start(*command)
    output = workplace.wait_for(process, "  step ")
    process.send_signal(signal.SIGSTOP)  # or it may end too soon

    # A second driver is refused, here and from a folder (or host) that knows nothing of the sweep.
    status = workplace.status("far")
    assert status["state"] == "running" and status["driver"]["pid"] == process.pid
    assert status["study"] == server.url("studies")
    elsewhere = Workplace(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    (elsewhere.folder / file).write_text((tmp_path / file).read_text())
    code, refusal = elsewhere.run(*command)
    assert code == 2 and re.search(rf"sweep 'far' .*pid {process.pid}\b", refusal), refusal
    assert server.password not in refusal

    workplace.kill_everything(process)
    assert workplace.status("far")["state"] == "interrupted"

    # The places are on record; the password comes from PGPASSWORD.
    code, more = workplace.run("--config", file, "--concurrency", "1")
    assert code == 0, more
    output += more
    assert f"compare   {tracking}" in more
    workplace.check_records_agree("far", 2)
    for run in workplace.trials("far"):
        assert [artifact.path for artifact in workplace.client().list_artifacts(run.info.run_id)] == ["images", "samples.png"]
    code, output_of_check = workplace.run("--check", "far")
    assert code == 0, output_of_check
    code, listed = workplace.run("--list")
    assert code == 0 and "far    finished  2 of 2 (2 complete" in listed, listed

    # From another folder the same command finds the study, and other settings are refused.
    code, again = elsewhere.run(*command, "--seed", "7")
    assert code == 2 and re.search(r"\bseed: 1 .*\b7\b", again), again
    # Another place is another sweep.
    code, again = workplace.run("--config", file, "--study-url", server.url("mlflow"))
    assert code == 2 and "places.study_url: " in again

    # Nothing of it lies here, and no password anywhere.
    folder = tmp_path / "mlruns" / "sweeps" / "far"
    assert not (folder / "study.db").exists() and not (tmp_path / "mlflow.db").exists()
    record = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert record["places"] == {"study_url": server.url("studies"), "tracking_uri": tracking}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or server.password.encode() not in path.read_bytes(), path
    runs_on_record = [*workplace.trials("far"), *workplace.parents("far")]
    assert not any(server.password in json.dumps([run.data.params, run.data.tags]) for run in runs_on_record)
    assert workplace.parents("far")[0].data.params["places.study_url"] == server.url("studies")
    assert server.password not in output + output_of_check + listed


def config_of(server: Postgres, name: str, **changes: object) -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(**{"name": name, "places": {"study_url": server.url("studies")}} | changes), "test")


@pytest.fixture
def ledger(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.chdir(tmp_path)
    config = config_of(server, f"ledger-{tmp_path.name}")
    sweep_folder(config.name).mkdir(parents=True)
    (sweep_folder(config.name) / "sweep.yaml").write_text(yaml.safe_dump(config.record()))
    open_ledger = Ledger(config, sweep_folder(config.name))
    yield open_ledger
    open_ledger.close()


def test_the_database_says_what_optuna_says(server: Postgres, ledger: Ledger) -> None:
    """Pins the tables that are read; another sweep in the same database is not mixed in."""
    other = Ledger(config_of(server, "other"), sweep_folder("other"))
    for value in (0.25, float("nan"), float("inf"), float("-inf")):
        number = ledger.ask().number
        ledger.record(number, 3, value, stop=False)
        other.record(other.ask().number, 6, 0.5, stop=False)
    ledger.record(0, 12, 0.5, stop=False)
    ledger.tell(0, "complete")
    ledger.tell(1, "failed", "MemoryError")
    ledger.set_seconds(12.5)
    entries, seconds = studies.recorded_trials(ledger.config, sweep_folder(ledger.config.name))
    assert repr(entries) == repr(ledger.entries()) and seconds == 12.5
    assert repr(studies.study_of(ledger.config, Path()).frozen_trials()) == repr(ledger.study.get_trials())
    other.close()


def test_orders_reach_a_driver_through_the_database(server: Postgres, ledger: Ledger) -> None:
    folder, order = sweep_folder(ledger.config.name), Order("enqueue", settings={"lr": 5e-3})
    give(ledger.config, folder, order)
    assert ledger.orders() == [order] == recorded_orders(ledger.config, folder, ledger.entries())
    number = ledger.ask(order).number
    assert ledger.repeat(number).params == ledger.entry(number).params and ledger.orders() == []
    assert recorded_orders(ledger.config, folder, ledger.entries()) == []


def _open_study(config: SweepConfig, folder: Path, barrier: Barrier) -> None:
    barrier.wait()
    Ledger(config, folder)


def test_two_drivers_create_the_tables_of_one_database_at_the_same_moment(server: Postgres, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    drivers = []
    for name in ("a", "b"):
        config = config_of(server, name, places={"study_url": server.url("new")})
        (tmp_path / name).mkdir()
        drivers.append(context.Process(target=_open_study, args=(config, tmp_path / name, barrier)))
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(120)
    assert [driver.exitcode for driver in drivers] == [0, 0]


def test_a_failed_trial_is_opened_again(ledger: Ledger) -> None:
    number = ledger.ask().number
    ledger.record(number, 3, 0.25, stop=False)
    ledger.tell(number, "failed", "MemoryError")
    ledger.reopen(number)
    trial = ledger.entry(number)
    assert (trial.state, trial.reason, trial.retried, trial.values, trial.ended) == ("running", None, 1, {3: 0.25}, None)
    ledger.tell(number, "stopped")
    assert ledger.entry(number).state == "stopped"


HOLD = """
import sys
import yaml
from pathlib import Path
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.store import note_driver, exclusive_driver
config = SweepConfig.parse(yaml.safe_load(Path(sys.argv[1]).read_text()), "test")
folder = Path(sys.argv[2])
with exclusive_driver(config, folder):
    note_driver(Ledger(config, folder).study)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_dead_drivers_lock_in_the_database_is_free_by_itself(server: Postgres, ledger: Ledger, tmp_path: Path) -> None:
    """The other driver has a folder of its own, as on another host."""
    config, mine = ledger.config, sweep_folder(ledger.config.name)
    command = [sys.executable, "-c", HOLD, str(mine / "sweep.yaml"), str(tmp_path / "host")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "held\n"
        running_driver = studies.running_driver(config, mine)
        assert running_driver is not None and running_driver.pid == driver.pid
        with (
            pytest.raises(BadInput, match=rf"pid {driver.pid} .+, since 20"),
            studies.exclusive_driver(config, mine),
        ):
            pass
        driver.kill()
    for _ in range(50):
        if studies.running_driver(config, mine) is None:
            break
        time.sleep(0.1)
    with studies.exclusive_driver(config, mine):
        assert studies.running_driver(config, mine) is not None
    assert studies.running_driver(config, mine) is None


def test_a_fault_of_another_record_is_not_named_as_one_of_the_study(ledger: Ledger) -> None:
    """MLflow's store raises errors of the same class."""
    fault = OperationalError("INSERT", {}, sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(OperationalError) as raised, studies.exclusive_driver(ledger.config, sweep_folder(ledger.config.name)):
        raise fault
    assert raised.value is fault


def test_a_server_that_goes_away_halts_the_driver_and_frees_its_lock(
    server: Postgres, ledger: Ledger, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sweep_folder(ledger.config.name)
    number = ledger.ask().number
    with pytest.raises(Halted) as halted, halting(folder), studies.exclusive_driver(ledger.config, folder):
        server.stop()
        try:
            ledger.record(number, 3, 0.5, stop=False)
            ledger.flush()
        finally:
            server.start()
    assert not missing(["database of the study cannot be reached", "Connection refused"], halted.value)
    with studies.exclusive_driver(ledger.config, folder):
        ledger.flush()
    assert ledger.study.get_trials()[number].intermediate_values == {3: 0.5}
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.long
def test_readers_too_create_the_tables_of_a_store_under_the_lock_alone(server: Postgres) -> None:
    uri = server.url("empty", password=True)
    assert relocation.moved(uri) is None  # a first start asks this
    held = list[int]()

    def ask(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith("CREATE TABLE"):
            held.append(other.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted").rowcount)

    address = server.url("new", password=True).replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as other:
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", ask)
        try:
            assert experiments(uri) == {"Default": "0"}
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", ask)
    assert held and all(held)


def test_a_sweep_whose_driver_has_not_created_the_tables_yet_is_left_to_it(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(server, "later", places={"study_url": server.url("later")})
    sweep_folder("later").mkdir(parents=True)
    (sweep_folder("later") / "sweep.yaml").write_text(yaml.safe_dump(config.record()))
    assert main(["--status", "later"]) == 0 and "0 of 4" in capsys.readouterr().out
    assert ui.main(["--optuna"]) == 2
    assert not missing(["later", "not begun"], capsys.readouterr().err)
    ledger = Ledger(config, sweep_folder("later"))
    assert ledger.ask().number == 0
    ledger.close()
    assert studies.study_of(config, Path()).attributes()["sweep"]["name"] == "later"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://sweeper:{wrong}@127.0.0.1:{port}/studies",
            "cannot be used: .*password authentication failed.*PGPASS",
        ),
        ("postgresql://sweeper:{wrong}@127.0.0.1:1/studies", "the database cannot be reached: .*Connection refused\n"),
        ("postgresql://sweeper:{password}@127.0.0.1:{port}/nothing", 'cannot be used: .*database "nothing" does not exist\n'),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(
    server: Postgres,
    url: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_sweep(name="unreachable")))
    given = url.format(wrong="let-me-in", password=server.password, port=server.port)
    assert main(["--config", "tiny.yaml", "--study-url", given]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: study postgresql+psycopg://sweeper@") and shown.count("\n") == 1
    assert re.search(message, shown) and "let-me-in" not in shown and server.password not in shown
    assert not (tmp_path / "mlruns").exists() or not list((tmp_path / "mlruns").rglob("sweep.yaml"))
