"""Train Φ by full-batch gradient descent and record its regime; cached, because every trial of a sweep shares it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc import cache as caches
from gbc import classifiers, losses
from gbc.classifiers import Classifier, normalising_by
from gbc.config import ClassifierConfig, digest
from gbc.datasets import Dataset
from gbc.errors import Diverged

Regime = dict[str, Any]
Progress = Callable[[int, int, float], None]
"""Called with (step, steps, loss) now and then."""

SCHEMA: Final = 1  # raise when a change here makes cached classifiers differ
_CHECK_EVERY: Final = 100
_REGIME: Final = "regime.json"


def identity(config: ClassifierConfig, data: Dataset) -> str:
    """Sixteen hex digits that name the classifier `config` trained on `data`."""
    return digest({"schema": SCHEMA, "classifier": config.model_dump(mode="json"), "data": data.digest()})


def obtain(
    config: ClassifierConfig, data: Dataset, cache: Path, progress: Progress | None = None
) -> tuple[Classifier, Regime, Path]:
    """The classifier from `cache`, trained first when it is not there: (classifier, regime, folder).

    Safe when several processes ask at once: one trains, the others wait.

    Raises:
        BadInput: an unknown classifier, or a cache that cannot be written.
        CorruptFile: the cached files are damaged.
        Diverged: training did not stay finite.
    """
    folder = cache / f"{data.name}-{config.name}-{identity(config, data)}"

    def make() -> Mapping[str, bytes]:
        module, regime = train(config, data, progress)
        return {
            caches.WEIGHTS: caches.packed(module),
            _REGIME: json.dumps(regime, indent=2).encode(),
            "config.json": config.model_dump_json(indent=2).encode(),
        }

    caches.once(folder, make)
    return load(folder, config, data)


def load(folder: Path, config: ClassifierConfig, data: Dataset) -> tuple[Classifier, Regime, Path]:
    """The classifier stored in `folder`.

    Raises:
        CorruptFile: a file is missing, damaged or belongs to another architecture.
    """
    module = classifiers.build(config, data.shape, len(data.class_names))
    regime = caches.restore(folder, module, _REGIME)
    return Classifier(module, data.class_names, data.shape, len(data.train_labels)), regime, folder


def train(config: ClassifierConfig, data: Dataset, progress: Progress | None = None) -> tuple[nn.Module, Regime]:
    """Full-batch gradient descent with weight decay until `steps`, or until every residual is within `tolerance`.

    Raises:
        Diverged: the loss stopped being finite.
    """
    images, labels = data.train()
    module = classifiers.build(config, data.shape, len(data.class_names)).train()
    optimiser = torch.optim.SGD(module.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    step = 0
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        loss = losses.cross_entropy(module(images), labels)
        loss.backward()
        optimiser.step()
        if step % _CHECK_EVERY == 0 or step == config.steps:
            value = loss.item()
            if not torch.isfinite(loss):
                raise Diverged(step, "the classifier's cross-entropy")
            if progress:
                progress(step, config.steps, value)
            if config.tolerance and max(residuals(module, images, labels, config.weight_decay).values()) <= config.tolerance:
                break
    _settle_batch_norm(module, images)
    return module.eval(), diagnose(module, images, labels, config.weight_decay) | {"steps": step}


def diagnose(module: nn.Module, images: Tensor, labels: Tensor, weight_decay: float) -> Regime:
    """How far training came: what decides whether KKT conditions hold (section 3 of docs/method.md)."""
    with torch.no_grad(), normalising_by(module, "train"):
        logits = module(images)
    margin = losses.margins(logits, labels)
    quantiles = torch.quantile(margin, torch.tensor([0.0, 0.05, 0.5, 0.95]))
    return {
        "loss": losses.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(dim=1) == labels).float().mean().item(),
        "margins": dict(zip(("min", "q05", "q50", "q95"), quantiles.tolist(), strict=True)),
        "residuals": residuals(module, images, labels, weight_decay),
    }


def residuals(module: nn.Module, images: Tensor, labels: Tensor, weight_decay: float) -> dict[str, float]:
    """Relative stationarity residual of each parameter tensor on the training set.

    ‖wd·ζ + ∇CE‖ / ‖wd·ζ‖, and for weights that a BatchNorm layer makes scale-invariant ‖∇CE‖ / ‖wd·ζ‖: gradient descent
    leads those to ∇ = 0, never to wd·ζ. Biases before BatchNorm have no effect on Φ and are left out.
    """
    with normalising_by(module, "train"):
        gradients = torch.autograd.grad(losses.cross_entropy(module(images), labels), list(module.parameters()))
    found = {}
    invariant = classifiers.scale_invariant(module)
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        layer, _, kind = name.rpartition(".")
        decay = weight_decay * parameter.detach()
        if layer in invariant and kind == "bias":
            continue
        residual = gradient if layer in invariant else gradient + decay
        found[name] = (residual.norm() / decay.norm().clamp_min(1e-12)).item()
    return found


@torch.no_grad()
def _settle_batch_norm(module: nn.Module, images: Tensor) -> None:
    """Make the stored statistics those of the final weights: the moving average lags behind them."""
    layers = [layer for layer in module.modules() if isinstance(layer, classifiers.BATCH_NORMS)]
    for layer in layers:
        layer.momentum = 1.0
    module.train()
    module(images)
    for layer in layers:
        layer.momentum = 0.1
