"""The registry: real stores, real models, loaded as a stranger would."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import get_model_info

from gbc import export
from gbc.errors import BadInput
from records.repetitions import Repeated
from search.spec.config import Objective
from search.tracking import registry
from search.tracking.registry import CHAMPION, Version
from tests.support import missing
from tests.support.exports import TWO_TASKS, Trained, trained
from tests.support.servers import mlflow_server

COVERAGE = Objective()
ROWS = pd.DataFrame({"label": [3, 0, 9, 3], "seed": [0, 7, 7, 1]})


@pytest.fixture(scope="module", params=["one task", "two tasks"])
def made(request: pytest.FixtureRequest, classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("made") / "model"
    return trained(classifier_cache, folder, ["torch"], **(TWO_TASKS if request.param == "two tasks" else {}))


@pytest.fixture(scope="module")
def exported(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(classifier_cache, tmp_path_factory.mktemp("exported") / "model", ["torch"]).folder


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One store for all: MLflow takes seconds to make one. Each test has a model of its own."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        store_uri = f"sqlite:///{folder / 'mlflow.db'}"
        MlflowClient(store_uri).create_experiment("e", artifact_location=(folder / "artifacts").as_uri())
        yield store_uri
        mlflow.set_tracking_uri(None)  # the environment's again, for whoever tests in this process next


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    return f"gbc-{request.node.name.replace('[', ' ').replace(']', '')}"


def run_of(uri: str) -> str:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e")
    return str(client.create_run(experiment.experiment_id if experiment else client.create_experiment("e")).info.run_id)


def register(
    folder: Path, uri: str, model: str, score: float, trial: int = 0, run: str | None = None, **changes: object
) -> Version:
    registration = {"sweep": "tiny", "objective": COVERAGE, **changes}
    return registry.register(
        folder,
        client_uri=uri,
        name=model,
        run_id=run or run_of(uri),
        score=score,
        trial=trial,
        **registration,  # type: ignore[arg-type]
    )


def test_the_champion_draws_what_the_export_draws(made: Trained, uri: str, model: str) -> None:
    run = run_of(uri)
    registered = register(made.folder, uri, model, 0.4, run=run)
    assert (registered.number, registered.champion, registered.created) == (1, True, True)
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model(f"models:/{model}@{CHAMPION}")
    images = served.predict(ROWS)
    assert images.shape == (4, 1, 28, 28) and images.dtype == np.float32
    generator = export.load(made.folder)
    for row, image in zip(ROWS.itertuples(), images, strict=True):
        expected = generator.sample([row.label], seed=row.seed).numpy()[0]
        assert np.abs(image - expected).max() <= 1e-5  # the last bits of a product depend on its size
    # Row i depends on no other row, to the last bit.
    np.testing.assert_array_equal(served.predict(ROWS.iloc[[2]]), images[[2]])
    many = pd.DataFrame({"label": [1, 2] * 70, "seed": range(140)})
    np.testing.assert_array_equal(served.predict(pd.concat([many, ROWS]))[-4:], images)
    assert served.predict(ROWS.iloc[:0]).shape == (0, 1, 28, 28)
    with pytest.raises(ValueError, match="label 99 "):
        served.predict(pd.DataFrame({"label": [99], "seed": [0]}))
    # Under the sweep's run, with what a reader looks for.
    version = MlflowClient(uri).get_model_version(model, "1")
    assert version.run_id == run and "trial-0000" in version.source
    assert version.description and version.description in (made.folder / "README.md").read_text()
    info = get_model_info(f"models:/{model}@{CHAMPION}")
    assert info.signature.inputs.input_names() == ["label", "seed"] and "(-1, 1, 28, 28)" in str(info.signature.outputs)
    assert served.input_example.columns.tolist() == ["label", "seed"]


@pytest.mark.long
def test_it_loads_without_this_repository(exported: Path, uri: str, model: str, tmp_path: Path) -> None:
    register(exported, uri, model, 0.4)
    program = f"""
import sys
sys.modules["gbc"] = sys.modules["search"] = None  # an editable installation would find them
import mlflow
import pandas as pd
mlflow.set_tracking_uri({uri!r})
images = mlflow.pyfunc.load_model("models:/{model}@champion").predict(pd.DataFrame({{"label": [3, 3], "seed": [0, 1]}}))
assert images.shape == (2, 1, 28, 28) and images.min() >= 0 and (images[0] != images[1]).any()
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_the_alias_goes_to_the_better_one(exported: Path, uri: str, model: str) -> None:
    client = MlflowClient(uri)

    def champion() -> str:
        return str(client.get_model_version_by_alias(model, CHAMPION).version)

    description = register(exported, uri, model, 0.4).describe()
    assert description.startswith(f"{model} version 1 = models:/{model}@champion (ssim/coverage 0.4"), description
    again = register(exported, uri, model, 0.4)
    assert (again.number, again.created, again.champion) == (1, False, True)
    worse = register(exported, uri, model, 0.3, trial=1)
    assert (worse.number, worse.champion) == (2, False) and champion() == "1"
    assert re.search("ssim/coverage 0.3 .*0.4 .*version 1", worse.reason), worse.reason
    other = register(exported, uri, model, 0.1, trial=2, objective=Objective(metric="kkt/rho", direction="min"))
    assert (other.number, other.champion) == (3, False) and champion() == "1"
    assert re.search("kkt/rho .*ssim/coverage .*version 1", other.reason), other.reason
    better = register(exported, uri, model, 0.5, trial=0, sweep="second")
    assert better.champion and better.created and champion() == "4"
    short = register(exported, uri, model, 0.9, trial=9, missed=["kkt/active 0.01"])
    assert not short.champion and "kkt/active 0.01" in short.reason and champion() == "4"
    MlflowClient(uri).delete_model_version(model, str(short.number))
    assert not register(exported, uri, model, 0.4).champion  # said again, the first sweep does not take it back
    assert len(client.search_model_versions(f"name = '{model}'")) == 4
    tags = client.get_model_version(model, "4").tags
    assert tags["sweep.name"] == "second" and float(tags["objective.value"]) == 0.5


def test_what_ran_again_is_compared_by_its_mean(exported: Path, uri: str, model: str) -> None:
    first = register(exported, uri, model, 0.9)  # the luckiest trial, when nothing had run again
    lucky, steady = Repeated(0, (0.5, 0.7), 0, 0), Repeated(1, (0.7, 0.6), 0, 0)
    version = register(exported, uri, model, 0.7, trial=1, repeated={0: lucky, 1: steady})
    assert version.champion and missing(["mean", "0.65", "0.6", "2 seeds"], version.reason) == []
    tags = MlflowClient(uri).get_model_version(model, str(first.number)).tags
    assert (float(tags["objective.mean"]), tags["objective.seeds"]) == (lucky.mean, "2")
    assert float(tags["objective.deviation"]) == lucky.deviation and float(tags["objective.value"]) == 0.9
    once = register(exported, uri, model, 0.69, trial=2)  # nothing but its value is known
    assert not once.champion and missing(["0.69", "0.7"], once.reason) == []


def test_smaller_is_better_where_the_sweep_says_so(exported: Path, uri: str, model: str) -> None:
    rho = Objective(metric="kkt/rho", direction="min")
    assert register(exported, uri, model, 0.9, objective=rho).champion
    assert not register(exported, uri, model, 0.95, trial=1, objective=rho).champion
    assert register(exported, uri, model, 0.8, trial=2, objective=rho).champion


def test_a_version_whose_alias_was_not_set_gets_it(exported: Path, uri: str, model: str) -> None:
    """A crash between the two leaves it so."""
    client = MlflowClient(uri)
    register(exported, uri, model, 0.4)
    client.delete_registered_model_alias(model, CHAMPION)
    version = register(exported, uri, model, 0.4)
    assert version.champion and not version.created


@pytest.mark.long
def test_through_a_tracking_server(exported: Path, uri: str, model: str, tmp_path: Path) -> None:
    with mlflow_server(tmp_path, uri, {}) as server:
        client = MlflowClient(server)
        run = client.create_run(client.create_experiment("served")).info.run_id  # its files go through the server
        assert register(exported, server, model, 0.4, run=run).champion
        assert not register(exported, server, model, 0.4, run=run).created
        mlflow.set_tracking_uri(server)
        assert mlflow.pyfunc.load_model(f"models:/{model}@{CHAMPION}").predict(ROWS).shape == (4, 1, 28, 28)
    assert list((tmp_path / "artifacts").rglob("generator.pt2"))


def test_what_mlflow_refuses_is_one_line(exported: Path, uri: str, model: str) -> None:
    with pytest.raises(BadInput, match=f"MLflow registry sqlite:.* model {model} ") as caught:
        register(exported, uri, model, 0.4, run="nothing")
    assert "\n" not in str(caught.value)
    assert not MlflowClient(uri).search_model_versions(f"name = '{model}'")
