"""The data sets and classifiers of a sweep, logged as inputs of its MLflow runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gbc.data.data_free import DataFreeTask
from gbc.data.samples import ImageDataset

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from gbc.config import TrialConfig
    from gbc.training.tasks import TrialInputs

_CONTEXT: Final = "mlflow.data.context"
_UNFIT: Final = re.compile(r"[/:.%\"'\\]")  # in the name of a model


class Inputs:
    """The inputs of a sweep's runs; logging them may be repeated."""

    def __init__(self, inputs: TrialInputs, settings: TrialConfig) -> None:
        self._data = _data(inputs, settings)
        self._classifiers = [
            (_UNFIT.sub("-", folder.name), {key: regime[key] for key in ("steps", "accuracy") if key in regime} | dict(shape))
            for folder, regime, shape in zip(inputs.folders, inputs.regimes, map(_about, settings.classifiers()), strict=True)
        ]
        self._models: list[Any] | None = None

    def log(self, client: MlflowClient, experiment: str, run: str) -> None:
        """Name the data sets and the classifiers as inputs of a run."""
        from mlflow.entities import LoggedModelInput

        if self._models is None:
            self._models = [
                LoggedModelInput(_model(client, experiment, run, name, about))
                for name, about in dict(self._classifiers).items()
            ]
        client.log_inputs(run, self._data, self._models)


def _about(spec: Any) -> Mapping[str, Any]:
    return {"name": spec.classifier.name, "hidden": spec.classifier.hidden, "dataset": spec.dataset.name}


def _model(client: MlflowClient, experiment: str, run: str, name: str, about: Mapping[str, Any]) -> str:
    """The id of the logged model that stands for a classifier; one for all sweeps of an experiment."""
    from mlflow.entities import LoggedModelStatus

    models = client.search_logged_models([experiment], filter_string=f"name = '{name}'", max_results=1)
    if models:
        identity: str = models[0].model_id
        return identity
    params = {key: str(value) for key, value in about.items()}
    model = client.create_logged_model(experiment, name=name, source_run_id=run, model_type="classifier", params=params)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    created: str = model.model_id
    return created


def _data(inputs: TrialInputs, settings: TrialConfig) -> Sequence[DatasetInput]:
    """The images that the classifiers were trained on, and the real ones that samples are judged by, if there are any."""
    import mlflow.data
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = inputs.data
    if isinstance(data, DataFreeTask):
        return []
    source = CodeDatasetSource({"path": settings.dataset.data_root or "gbc/data/assets"})
    parts: dict[str, tuple[Any, Any]] = {}
    if isinstance(data, ImageDataset):
        parts["classifier training"] = data.train_images, data.train_labels
        parts["evaluation"] = data.test_images, data.test_labels
    else:
        parts["classifier training"] = data.train_points, data.train_labels
    datasets = []
    for context, (samples, labels) in parts.items():
        name = data.name if context == "classifier training" else f"{data.name}, test images"
        described = mlflow.data.from_numpy(samples, source=source, targets=labels, name=name, digest=data.digest()[:36])
        datasets.append(DatasetInput(Dataset(**described.to_dict()), [InputTag(_CONTEXT, context)]))
    return datasets
