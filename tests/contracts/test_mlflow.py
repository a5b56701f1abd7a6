"""Uses of MLflow beyond its documented interface (docs/internals.md)."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient, environment_variables
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags, validation
from PIL import Image

from gbc.errors import BadInput
from records.addresses import sqlite_url
from records.mlflow_store import STEP_METRIC, all_runs
from search.spec.config import SweepConfig
from search.spec.faults import external_fault
from search.tracking import lineage, step_images, tracker, ui_view
from search.tracking.client import TrialRun, experiments
from tests.search.conftest import tiny_sweep
from tests.support.stores import lay_down_store


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    lay_down_store(tmp_path)
    return MlflowClient(sqlite_url(tmp_path / "mlflow.db"))


def test_a_run_knows_the_last_step_of_each_metric(client: MlflowClient) -> None:
    run = client.create_run("0").info.run_id
    client.log_batch(run, [Metric(STEP_METRIC, 0.5, 1000 + step, step) for step in (3, 6)])
    (run_on_record,) = all_runs(client, "0", "")
    assert TrialRun.of(run_on_record).last_step == 6


def test_pictures_of_steps_are_found_by_the_names_of_their_files(client: MlflowClient, tmp_path: Path) -> None:
    run = client.create_run(client.create_experiment("pictures", (tmp_path / "artifacts").as_uri())).info.run_id
    client.log_image(run, Image.new("L", (2, 2)), key=step_images.KEY, step=7)
    names = [file.path for file in client.list_artifacts(run, step_images._FOLDER)]
    assert [match[1] for name in names if (match := step_images._STEP.fullmatch(name))] == ["7"]
    assert client.get_run(run).data.tags[step_images._SHOWN] == "True"


def test_the_pages_know_the_words_of_a_shared_view_and_of_an_experiments_kind() -> None:
    pages = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    text = "".join(path.read_text(errors="replace") for path in pages.rglob("*.js"))
    config = SweepConfig.parse(tiny_sweep(), "test")
    view = ui_view._charts(config)
    keys = {key for kind in view.values() for card in kind for key in card}
    expected = {
        ui_view.TAG,
        "viewStateShareKey",
        "compareRunsMode",
        "deflate;",
        "mlflow.experimentKind",
        "custom_model_development",
    }
    assert [key for key in sorted({ui_view.TAG, *view, *keys, *expected}) if key not in text] == []


def test_tags_have_these_names() -> None:
    assert mlflow_tags.MLFLOW_PARENT_RUN_ID == "mlflow.parentRunId"
    assert mlflow_tags.MLFLOW_RUN_NOTE == "mlflow.note.content"
    assert {mlflow_tags.MLFLOW_SOURCE_NAME, mlflow_tags.MLFLOW_SOURCE_TYPE} == tracker._SOURCE.keys()
    assert mlflow_tags.MLFLOW_DATASET_CONTEXT == lineage._CONTEXT
    assert mlflow_tags.MLFLOW_LOGGED_IMAGES == step_images._SHOWN


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    ],
)  # fmt: skip
def test_switches_in_the_environment_have_these_names(name: str) -> None:
    assert getattr(environment_variables, name).name == name


def test_a_batch_holds_a_thousand_metrics() -> None:
    assert validation.MAX_METRICS_PER_BATCH == tracker._LARGEST_BATCH


def test_characters_that_the_name_of_a_model_may_not_have_are_replaced(client: MlflowClient) -> None:
    for character in "/:.%\"'":
        with pytest.raises(MlflowException, match=r"Invalid model name|Model name"):
            client.create_logged_model("0", name=f"a{character}b")
    assert client.create_logged_model("0", name=lineage._UNFIT.sub("-", "a/:.%\"'\\b")).name == "a-------b"


@pytest.mark.parametrize("revision", ["0123456789ab", "451aebb31d03"])  # of a later MLflow, and of an earlier one
def test_a_store_of_another_version_is_refused_with_what_mends_it(revision: str, client: MlflowClient, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes((tmp_path / "mlflow.db").read_bytes())
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(BadInput, match=r"written by another version of MLflow; keep a copy and run `mlflow db upgrade sqlite:"):
        experiments(sqlite_url(path))


def test_a_server_that_is_gone_is_known_by_the_module_of_its_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://127.0.0.1:1"
    with pytest.raises(MlflowException) as caught:
        MlflowClient(uri).search_experiments()
    assert str(external_fault(caught.value, tmp_path, uri)).startswith(f"MLflow's server {uri} cannot be used: ")
