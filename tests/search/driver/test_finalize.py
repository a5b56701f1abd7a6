"""The steps after a sweep, and MLflow's pages of it in a real browser."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from rich.console import Console

from gbc.studies.findings import OTHER, TRAIN
from records.paths import RECORD, REPORT, SWEEPS
from search import ui
from search.driver.finalize import AUDIT, EVALUATION, VERDICT, conclude
from search.driver.live_report import LiveReport, await_report, begin_report
from search.driver.summary import summarise
from search.files.paths import CHECKPOINT, CLASSIFIERS, sweep_folder, trial_folder
from search.policy.ranking import best_trial
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.tracking.registry import CHAMPION
from search.tracking.tracker import Tracker
from tests.search.conftest import tiny_sweep
from tests.support import missing
from tests.support.browser import Page, browse, chromium
from tests.support.records import move, play
from tests.support.stores import lay_down_store

pytestmark = pytest.mark.long

CONFIG = SweepConfig.parse(tiny_sweep(trials=4, keep=1), "test")


def finish() -> str:
    """Conclude the sweep in this folder, as its driver does; gives what it said."""
    ledger, tracker, printed = Ledger(CONFIG, sweep_folder("tiny")), Tracker(CONFIG, {}), io.StringIO()
    summary = summarise(CONFIG, ledger, tracker.metrics, sweep_folder("tiny"))
    conclude(CONFIG, ledger.entries(), tracker, summary, Console(file=printed, width=300))
    ledger.close()
    return printed.getvalue()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """Three trials complete, one stopped at step 6; concluded, and concluded again."""
    folder = tmp_path_factory.mktemp("concluded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copytree(classifier_cache, CLASSIFIERS)
        play(CONFIG, classifier_cache, stop={3: 6}, leave={}, fail={})
        finish()
        (folder / "said.txt").write_text(finish())
        yield folder


@pytest.fixture
def project_folder(template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder itself, not to be changed."""
    monkeypatch.chdir(template)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return template


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")


def winner() -> int:
    ledger = Ledger(CONFIG, sweep_folder("tiny"))
    best = best_trial(CONFIG, ledger.entries())
    ledger.close()
    assert best is not None
    return best.number


def test_the_verdict_is_in_mlflow_once(project_folder: Path) -> None:
    store = client()
    experiment = store.get_experiment_by_name("gbc-fashion_mnist")
    assert experiment is not None and experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}
    parent = runs["tiny"]
    files = Path(store.download_artifacts(parent.info.run_id, ""))
    evaluation = json.loads((files / EVALUATION).read_text())
    assert evaluation["trial"] == winner()
    logged = runs[f"trial-{winner():04d}"].data.metrics
    assert evaluation["scores"]["generator"] == {name: logged[name] for name in ("ssim/nearest", "ssim/coverage", "tstr/1nn")}
    assert list(evaluation["scores"])[-1] == "other real images" and evaluation["scores"]["black"]["tstr/1nn"] < 0.2
    (audit,) = json.loads((files / AUDIT).read_text())
    assert audit["classifier"].startswith("fashion_mnist-mlp_bn-") and audit["verdict"]
    assert {TRAIN, OTHER} <= set(audit["conditions"][0]["values"])
    note = parent.data.tags["mlflow.note.content"]
    verdict = json.loads((files / VERDICT).read_text())
    assert verdict["trial"] == winner() and verdict["lines"][0].startswith("The KKT conditions ")
    assert verdict["lines"][0] in note
    assert f"trial-{winner():04d}" in note and "| black |" in note and "python search/run.py" in note

    (version,) = store.search_model_versions("name = 'gbc-fashion_mnist'")
    assert store.get_model_version_by_alias("gbc-fashion_mnist", CHAMPION).version == version.version
    assert version.run_id == parent.info.run_id and version.tags["sweep.trial"] == str(winner())
    assert "as before" in (project_folder / "said.txt").read_text() and "note:" not in (project_folder / "said.txt").read_text()


def test_trials_name_what_they_start_from_and_show_how_they_went(project_folder: Path) -> None:
    store = client()
    experiment = store.get_experiment_by_name("gbc-fashion_mnist")
    assert experiment is not None
    (model,) = store.search_logged_models([experiment.experiment_id], filter_string="name LIKE 'fashion_mnist-%'")
    for run in store.search_runs([experiment.experiment_id]):
        inputs = store.get_run(run.info.run_id).inputs
        contexts = {dataset_input.tags[0].value: dataset_input.dataset.name for dataset_input in inputs.dataset_inputs}
        assert contexts == {"classifier training": "fashion_mnist", "evaluation": "fashion_mnist, test images"}
        assert [model_input.model_id for model_input in inputs.model_inputs] == [model.model_id]
        if run.data.tags["sweep.role"] == "trial":
            assert run.data.metrics["system/system_memory_usage_megabytes"] > 100
            pictures = [file.path for file in store.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]
            assert len(pictures) == (2 if run.data.tags["sweep.trial"] == "3" else 4)
            left = trial_folder(SWEEPS / "tiny", int(run.data.tags["sweep.trial"]))
            assert isinstance(left, Path) and not list(left.glob("samples-*.png"))


def test_a_report_is_beside_the_study(project_folder: Path) -> None:
    text = (SWEEPS / "tiny" / REPORT).read_text()
    assert f"trial {winner()}" in text and "other real images" in text and "KKT conditions " in text


def test_what_cannot_be_done_is_said_and_the_rest_is_done(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(template, tmp_path)
    utils._artifact_repos_cache.clear()  # by run, and the copy has the same runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    best_of = trial_folder(SWEEPS / "tiny", winner())
    (best_of / CHECKPOINT).unlink()
    (SWEEPS / "tiny" / REPORT).unlink()
    printed = finish()
    assert re.search(f"^note: .*trial {winner()} ", printed, re.MULTILINE), printed
    assert (SWEEPS / "tiny" / REPORT).exists()


@pytest.fixture(scope="module")
def address(template: Path) -> Iterator[str]:
    """The view of the sweep, on a server started as users start it, where the usual port is taken."""
    if chromium() is None:
        pytest.skip("no Chromium on this machine")
    with closing(socket.socket()) as other:
        with contextlib.suppress(OSError):  # taken by somebody else, which is as good
            other.bind(("127.0.0.1", 5000))
            other.listen()
        server = subprocess.Popen(
            [sys.executable, str(Path(ui.__file__)), "--sweep", "tiny"], cwd=template, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        patience = threading.Timer(120, server.kill)
        patience.start()
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "viewStateShareKey" in line:
                break
        patience.cancel()
        assert any(re.search(r"port 5000 .*\b50\d\d$", line) for line in lines), lines
        yield lines[-1].split()[-1]
        server.terminate()
        assert server.wait(20) == 0


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Page]:
    with browse() as page:
        yield page


def test_the_runs_table_tells_the_story(project_folder: Path, tab: Page, address: str) -> None:
    tab.open(address, width=1800)
    tab.wait("document.body.innerText.includes('matching runs')")
    rows = "[...document.querySelectorAll('[role=row] a')].map(e => e.textContent).filter(t => /^(trial-|tiny)/.test(t))"
    tab.wait(f"{rows}.length == 5")
    ledger = Ledger(CONFIG, sweep_folder("tiny"))
    order = sorted(ledger.entries(), key=lambda trial: -(trial.value or 0))
    ledger.close()
    assert tab.run(rows) == [*(f"trial-{trial.number:04d}" for trial in order), "tiny"]
    heads = tab.run("[...document.querySelectorAll('[role=columnheader]')].map(e => e.textContent.trim())")
    assert {"Run Name", "ssim/coverage", "tstr/1nn", "kkt/rho"} <= set(heads)


def test_charts_compare_trials(tab: Page, address: str) -> None:
    tab.open("about:blank")
    tab.open(address.replace("TABLE", "CHART"), width=1800, height=3000)
    for text in ("Parallel Coordinates", "KKT losses", "kkt/rho", "loss/duality", "Scores"):
        tab.wait(f"document.body.innerText.includes({text!r})")
    tab.wait("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= 4")


def test_the_sweeps_run_shows_the_verdict_with_its_picture(project_folder: Path, tab: Page, address: str) -> None:
    run = client().search_runs(["1"], "tags.`sweep.role` = 'sweep'")[0].info.run_id
    tab.open("about:blank")
    tab.open(f"{address.partition('#')[0]}#/experiments/1/runs/{run}", width=1500, height=1600)
    picture = "document.querySelector('img[src*=\"samples.png\"]')"
    tab.wait(f"{picture} && {picture}.naturalWidth > 0")
    assert f"trial-{winner():04d}" in tab.run("document.body.innerText")


def test_pictures_of_trials_can_be_browsed_by_step(tab: Page, address: str) -> None:
    tab.open("about:blank")
    tab.open(address.replace("TABLE", "CHART"), width=1800, height=6000)
    shown = "[...document.querySelectorAll('img')].filter(e => e.src.includes('samples') && e.naturalWidth > 0)"
    tab.wait(f"{shown}.length == 4")
    before = tab.run(f"{shown}.map(e => e.src)")
    assert all("step%2B3%2B" in source or "step+3+" in source for source in before), before
    tab.run("document.querySelector('[role=slider]').focus()")
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    tab.wait(f"{shown}.length == 4 && {shown}.every(e => !{before!r}.includes(e.src))")


def test_optunas_pages_are_of_the_same_study(project_folder: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, str(Path(ui.__file__)), "--optuna"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    patience = threading.Timer(120, server.kill)
    patience.start()
    assert server.stdout is not None
    head, link = server.stdout.readline(), server.stdout.readline()
    patience.cancel()
    assert head.startswith("optuna-dashboard on http://127.0.0.1:") and link.split()[0] == "tiny", (head, link)
    with urllib.request.urlopen(link.split()[1].replace("/dashboard", "/api/studies"), timeout=30) as answer:
        (study,) = json.load(answer)["study_summaries"]
    assert study["study_name"] == "tiny" and study["directions"] == ["maximize"]
    server.terminate()
    assert server.wait(20) == 0


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for arguments, message in (
            ([], r"MLflow store .*\(sqlite:///"),
            (["--sweep", "tinny"], "sweep 'tinny'"),
            (["--optuna"], "no sweep .*python search/run.py"),
        ):
            assert ui.main(arguments) == 2
            error = capsys.readouterr().err
            assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error
        Path("mlflow.db").touch()
        lay_down_store(tmp_path)
        assert ui.main(["--port", port]) == 2
        assert re.search(f"--port {port}: .*Address already in use", capsys.readouterr().err)


def test_a_store_of_another_mlflow_is_named(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(template / "mlflow.db", "mlflow.db")
    with closing(sqlite3.connect("mlflow.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    assert ui.main([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "`mlflow db upgrade" in error


def test_the_report_is_written_again_while_the_sweep_runs(records: Path) -> None:
    """Failures are a line, once for each kind; a page that is made meanwhile says so and reloads itself."""
    page, settings, notes = SWEEPS / "tiny" / REPORT, SWEEPS / "tiny" / RECORD, list[str]()
    (experiment,) = client().search_experiments(filter_string="name = 'gbc-fashion_mnist'")
    (parent,) = client().search_runs([experiment.experiment_id], "tags.`sweep.role` = 'sweep'")
    client().update_run(parent.info.run_id, status="RUNNING")
    page.unlink()
    text = settings.read_text()
    settings.write_text("trial: [")
    ledger = Ledger(CONFIG, sweep_folder("tiny"))
    often = CONFIG.model_copy(update={"report_every": 0.005})

    def wait(until: Callable[[], object]) -> None:
        for _ in range(1200):
            if until():
                return
            time.sleep(0.1)
        raise AssertionError(notes)

    with LiveReport(often, ledger, notes.append) as live:
        wait(lambda: notes)
        first = live._process
        wait(lambda: live._process is not first)  # it tries again
        settings.write_text(text)
        wait(page.exists)
    ledger.close()
    assert live._process is not None and live._process.poll() is not None
    assert len(notes) == 1 and not missing([RECORD], notes[0])
    assert not missing(['http-equiv="refresh" content="1"', "The sweep is running"], page.read_text())

    assert await_report(begin_report("tiny")) is None  # as a run that was interrupted leaves it
    assert 'http-equiv="refresh"' not in page.read_text()
    client().update_run(parent.info.run_id, status="FINISHED")
    assert await_report(begin_report("tiny", refresh=5)) is None
    assert 'http-equiv="refresh"' not in page.read_text()


def test_nothing_is_written_meanwhile_unless_asked_or_before_a_trial_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_folder("tiny").mkdir(parents=True)
    ledger = Ledger(CONFIG, sweep_folder("tiny"))
    before = threading.active_count()
    with LiveReport(CONFIG, ledger, pytest.fail):
        assert threading.active_count() == before
    with LiveReport(CONFIG.model_copy(update={"report_every": 0.001}), ledger, pytest.fail) as live:
        assert threading.active_count() == before + 1
        time.sleep(0.3)
    ledger.close()
    assert live._process is None
