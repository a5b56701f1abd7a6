"""The best generators of sweeps as versions of a registered model, `gbc-<dataset>`; the best of them has the alias `champion`.

mlflow.pyfunc.load_model("models:/gbc-fashion_mnist@champion").predict(pandas.DataFrame({"label": [3, 8], "seed": [0, 1]}))
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput
from records.addresses import first_line, public
from records.mlflow_store import NAME, TRIAL
from search.spec.config import Objective, SweepConfig
from search.tracking.client import with_timeout

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from records.repetitions import Repeated


CHAMPION: Final = "champion"
_CLASSIFIERS: Final = "classifiers.digest"
"""Tag of versions without images: what their classifiers say of them compares with no other classifier's word."""
_MEAN: Final = "objective.mean"
_SEEDS: Final = "objective.seeds"
_SERVED: Final = Path(__file__).with_name("pyfunc_model.py")
_NEEDS: Final = ("mlflow", "numpy", "pandas", "torch")


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: int
    champion: bool
    """True if it has the alias."""
    created: bool
    """True if it is new; False if this trial was registered before."""
    reason: str
    """The reason why it is the champion, or not, in words."""

    def describe(self) -> str:
        """Return a line for people."""
        alias = f" = models:/{self.name}@{CHAMPION}" if self.champion else ""
        return f"{self.name} version {self.number}{alias} ({self.reason})"


def model_name(config: SweepConfig) -> str:
    """Return the name of the registered model that a sweep's best generator becomes a version of."""
    return f"gbc-{config.dataset}"


def register(
    folder: Path,
    *,
    client_uri: str,
    name: str,
    run_id: str,
    sweep: str,
    trial: int,
    objective: Objective,
    score: float,
    missed: Sequence[str] = (),
    repeated: Mapping[int, Repeated] | None = None,
) -> Version:
    """Make the exported `folder` (with `generator.pt2`) a version of the model `name`, its files under the run `run_id`.

    It takes the alias from a champion that was worse by the same objective. Of one with another objective, or without images of
    other classifiers, nothing can be said: that stays. One that misses what its sweep requires, in the words of `missed`, does
    not take it. `repeated` are settings that ran again on fresh seeds, by trial: versions of them, also those of
    earlier ends of this sweep, get the mean and the deviation as tags, and two that have a mean are compared by it. The same
    generator of the same trial is registered once.

    Raises:
        BadInput: MLflow refuses, or cannot be reached.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    header = json.loads((folder / "config.json").read_text())
    tags = {
        NAME: sweep,
        TRIAL: str(trial),
        "weights.digest": header["weights"],
        "objective.metric": objective.metric,
        "objective.direction": objective.direction,
        "objective.value": repr(score),
    }
    if header["origin"]["data"]["name"] == "none":
        tags[_CLASSIFIERS] = " ".join(origin["digest"] for origin in header["origin"]["classifiers"])
    repeated = repeated or {}
    if trial in repeated:
        tags |= _seed_tags(repeated[trial])
    try:
        with _quiet():
            client = MlflowClient(with_timeout(client_uri), registry_uri=with_timeout(client_uri))
            _ensure(client, name)
            version = _registered(client, name, tags)
            if created := version is None:
                version = _add(client, folder, name, run_id, tags, header)
            assert version is not None
            _tag_repeated(client, name, sweep, repeated)
            won, reason = (
                (False, f"not the champion: it misses {', '.join(missed)}")
                if missed
                else _compare(_champion(client, name), version.version, tags)
            )
            if won:
                client.set_registered_model_alias(name, CHAMPION, version.version)
    except (MlflowException, SQLAlchemyError, OSError) as fault:
        cause = first_line(fault, client_uri)
        raise BadInput(f"MLflow registry {public(client_uri)}: model {name} cannot be registered: {cause}") from None
    return Version(name, int(version.version), won, created, reason)


def _ensure(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Image generators born from classifiers, the best of each sweep.")
    except MlflowException as fault:
        if fault.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """The version of this trial, if its files were all written."""
    same = {key: tags[key] for key in (NAME, TRIAL, "weights.digest")}
    return next((version for version in _versions(client, name) if same.items() <= version.tags.items()), None)


def _tag_repeated(client: MlflowClient, name: str, sweep: str, repeated: Mapping[int, Repeated]) -> None:
    """Give the versions of a sweep what fresh seeds say of them: the luckiest of an earlier end may be the champion."""
    for candidate in _versions(client, name) if repeated else ():
        if candidate.tags.get(NAME) == sweep and (result := repeated.get(int(candidate.tags[TRIAL]))):
            for key, value in _seed_tags(result).items():
                client.set_model_version_tag(name, candidate.version, key, value)


def _seed_tags(result: Repeated) -> dict[str, str]:
    return {_MEAN: repr(result.mean), "objective.deviation": repr(result.deviation), _SEEDS: str(len(result.values))}


def _versions(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _add(
    client: MlflowClient, folder: Path, name: str, run_id: str, tags: Mapping[str, str], header: Mapping[str, Any]
) -> ModelVersion:
    """Write the files, then the version: a version never names what is not there."""
    artifact_path = f"generator/trial-{int(tags[TRIAL]):04d}"
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        _save(model, folder, header)
        client.log_artifacts(run_id, str(model), artifact_path)
    source = f"{client.get_run(run_id).info.artifact_uri}/{artifact_path}"
    description = (folder / "README.md").read_text().partition("\n# ")[2].partition("\n\n")[2].partition("\n\n")[0]
    return client.create_model_version(name, source, run_id, tags=dict(tags), description=description)


def _save(model: Path, folder: Path, header: Mapping[str, Any]) -> None:
    """The folder as an MLflow model, which loads without this package."""
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([ColSpec("long", "label"), ColSpec("long", "seed")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *header["shape"]), "images")]),
    )
    save_model(
        model,
        python_model=str(_SERVED),
        artifacts={"generator": str(folder)},
        signature=signature,
        input_example=pd.DataFrame({"label": [0, 1], "seed": [0, 0]}),
        # Releases, not builds: +cpu and +cu130 of torch read the same program.
        pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in _NEEDS],
        metadata={"class_names": header["classes"]},
    )


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as fault:
        if fault.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _compare(champion: ModelVersion | None, number: str, tags: Mapping[str, str]) -> tuple[bool, str]:
    """(True if the version `number` is to have the alias, the reason)."""
    former = champion.tags if champion is not None else {}
    measure = _MEAN if tags.keys() & {_MEAN} and (champion is None or former.keys() & {_MEAN}) else "objective.value"
    metric, score = tags["objective.metric"], float(tags[measure])
    if measure == _MEAN:
        metric = f"{metric}, the mean over {tags[_SEEDS]} seeds,"
    if champion is None:
        return True, f"{metric} {score:.4g}, the first"
    if champion.version == number:
        return True, f"{metric} {score:.4g}, as before"
    if any(former.get(key) != tags[key] for key in ("objective.metric", "objective.direction")):
        return (
            False,
            f"{metric} does not compare with {former.get('objective.metric')} of the champion, version {champion.version}",
        )
    if former.get(_CLASSIFIERS) != tags.get(_CLASSIFIERS):
        return False, f"{metric} of other classifiers than those of the champion, version {champion.version}, does not compare"
    other = float(former[measure])
    better = score > other if tags["objective.direction"] == "max" else score < other
    verb = "beats" if better else "does not beat"
    return better, f"{metric} {score:.4g} {verb} {other:.4g} of version {champion.version}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off MLflow's progress bars and hints."""
    logger, bars = logging.getLogger("mlflow"), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    level, before = logger.level, os.environ.get(bars)
    logger.setLevel(logging.ERROR)
    os.environ[bars] = "false"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[bars]
        else:
            os.environ[bars] = before
