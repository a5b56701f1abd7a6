"""An evaluation and an audit as a finished sweep has them in MLflow, and pictures by step for the benchmark."""

from __future__ import annotations

import io
import json

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from dashboards.pictures import to_pixels
from records.mlflow_store import runs_of

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CONTROLS = {
    "black": (0.488, 0.118, 0.036),
    "uniform noise": (0.081, 0.059, 0.128),
    "mean image": (0.337, 0.171, 0.100),
    "class means": (0.583, 0.410, 0.660),
    "other real images": (0.598, 0.589, 0.723),
}
METRICS = ("ssim/nearest", "ssim/coverage", "tstr/1nn")


def log_step_images(client: MlflowClient, run: Run, steps: list[int], seed: int = 0) -> None:
    """Pictures on the way from noise to the trial's last one."""
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    if "samples.png" not in files:
        return
    with open(client.download_artifacts(run.info.run_id, "samples.png"), "rb") as file:
        last = to_pixels(Image.open(io.BytesIO(file.read())))
    noise = np.random.default_rng(seed).integers(0, 255, last.shape)
    for step in steps:
        share = step / max(steps)
        sheet = np.where(last >= 250, last, share * last + (1 - share) * noise).astype(np.uint8)
        client.log_image(run.info.run_id, sheet, key="samples", step=step, synchronous=True)


def evaluation(run: Run, trial: int) -> dict[str, object]:
    """An evaluation with the controls that Fashion-MNIST really has."""
    scores = {"generator": {metric: run.data.metrics[metric] for metric in METRICS}}
    scores |= {name: dict(zip(METRICS, values, strict=True)) for name, values in CONTROLS.items()}

    def spread(value: float) -> dict[str, float]:
        return {name: value * (0.7 + 0.06 * index) for index, name in enumerate(CLASSES)}

    by_class = {
        "generator": {
            metric: spread(run.data.metrics[metric]) for metric in ("ssim/coverage", "tstr/1nn", "classifier/accuracy")
        },
        **{
            name: {metric: spread(scores[name][metric]) for metric in ("ssim/coverage", "tstr/1nn")}
            for name in ("class means", "other real images")
        },
    }
    return {"trial": trial, "eval_per_class": 50, "scores": scores, "by_class": by_class}


AUDIT = [
    {
        "classifier": "fashion_mnist-mlp_bn",
        "verdict": "No condition tells the training images from other real images: a KKT loss has nothing to follow here.",
        "lambda": {
            "freedom": {"train": 3, "eval": 2},
            "policies": [
                {"policy": "last_layer", "mode": "train", "degrees": {"7.weight": 1.0}, "kept": ["7.weight", "7.bias"],
                 "same_as": None, "refused": None},
                {"policy": "uniform", "mode": "eval", "degrees": None, "kept": [], "same_as": None,
                 "refused": "no <uniform> Λ"},
            ],
        },
        "conditions": [
            {"name": "wd·ζ = −∇CE", "values": {"training set": 85.6, "other real images": 80.1},
             "cosines": {"training set": 0.41, "other real images": 0.39}, "parts": [], "separates": False},
        ],
        "regime": {"loss": 0.0857, "accuracy": 1.0, "margins": {"min": 0.34, "q50": 3.83}, "imbalance": {}},
    }
]  # fmt: skip


def log_all(client: MlflowClient, dataset: str, sweep: str) -> None:
    """Artifacts of a finished sweep beside the runs of its trials."""
    (parent,), trials = runs_of(client, dataset, sweep)
    best = int(parent.data.tags["sweep.best_trial"])
    (run,) = [run for run in trials if run.data.tags["sweep.trial"] == str(best)]
    client.log_dict(parent.info.run_id, evaluation(run, best), "evaluation.json")
    client.log_text(parent.info.run_id, json.dumps(AUDIT), "audit.json")
