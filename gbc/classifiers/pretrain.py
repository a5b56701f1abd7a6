"""A classifier for every trial of a sweep: trained once, or taken from the user, and cached with its regime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from gbc import cache as caches
from gbc import plain_yaml
from gbc.classifiers import architectures, convergence, custom, fit
from gbc.classifiers.architectures import Classifier
from gbc.classifiers.convergence import Regime
from gbc.classifiers.custom import Card
from gbc.classifiers.fit import ProgressCallback
from gbc.config import ClassifierConfig
from gbc.data.datasets import Dataset
from gbc.errors import BadInput
from gbc.settings import digest

_CARD: Final = "model.yaml"
_REGIME: Final = "regime.json"
Elsewhere = Callable[[str], Mapping[str, bytes] | None]
"""Another cache: the files of a classifier by the name of its folder, None when it is not there."""

SCHEMA: Final = 2  # raise when a change here makes cached classifiers differ
_LATER: Final[dict[str, object]] = {name: ClassifierConfig.model_fields[name].default for name in ("decay", "first_scale")}


def identity(config: ClassifierConfig, data: Dataset | None) -> str:
    """Sixteen hex digits that name the classifier `config` trained on `data`; files count by content, not by place.

    Raises:
        BadInput: a factory, weights or a card that cannot be read.
    """
    settings = config.model_dump(mode="json", exclude={"weights", "card"})
    # A setting that came later has no part in the name at its default: classifiers that were cached before it stay valid.
    settings = {key: value for key, value in settings.items() if key not in _LATER or value != _LATER[key]}
    if config.factory:
        settings["source"] = custom.source_digest(config.factory)
    if config.weights:
        settings["weights"] = _file_digest(Path(config.weights))
        settings["card"] = custom.read_card(config).model_dump(mode="json")
    return digest({"schema": SCHEMA, "classifier": settings, "data": data.digest() if data else None})


def classifier_folder(config: ClassifierConfig, data: Dataset | None, cache: Path) -> Path:
    """The folder in `cache` of this classifier, whether it is there or not. Raises as `identity`."""
    return cache / f"{data.name if data else 'own'}-{config.label}-{identity(config, data)}"


def obtain(
    config: ClassifierConfig,
    data: Dataset | None,
    cache: Path,
    progress: ProgressCallback | None = None,
    elsewhere: Elsewhere | None = None,
) -> tuple[Classifier, Regime, Path]:
    """The classifier from `cache`, first trained, or taken from the user's weights: (classifier, regime, folder).

    What the cache lacks is asked for `elsewhere` before it is trained.

    Without `data` there must be weights, and their regime is not known. Safe when several processes ask at once: one
    trains, the others wait.

    Raises:
        BadInput: an unknown classifier, one of the user's that cannot be used, or a cache that cannot be written.
        CorruptFile: the cached files are damaged.
        Diverged: training did not stay finite.
    """
    folder = classifier_folder(config, data, cache)

    def make() -> Mapping[str, bytes]:
        if elsewhere is not None and (files := elsewhere(folder.name)):
            return files
        module, card, found = _made(config, data, progress)
        return {
            caches.WEIGHTS: caches.packed(module),
            # Beside the weights under the name a card has by default: this folder can be given as --weights itself.
            _CARD: plain_yaml.dump(card.model_dump(mode="json", exclude_none=True)).encode(),
            _REGIME: json.dumps(found, indent=2).encode(),
            "config.json": config.model_dump_json(indent=2).encode(),
        }

    caches.once(folder, make)
    return load(folder, config)


def load(folder: Path, config: ClassifierConfig) -> tuple[Classifier, Regime, Path]:
    """The classifier stored in `folder`.

    Raises:
        BadInput: a factory that cannot be used.
        CorruptFile: a file is missing, damaged or belongs to another architecture.
    """
    try:
        card = Card.parse(plain_yaml.load(folder / _CARD), _CARD)
    except (OSError, BadInput) as fault:
        raise caches.damaged(folder, fault) from None
    module = _new(config, card)
    found = caches.restore(folder, module, _REGIME)
    module = custom.wrap(module, card).eval()
    return Classifier(module, card.class_names, card.shape, card.samples), found, folder


def _made(config: ClassifierConfig, data: Dataset | None, progress: ProgressCallback | None) -> tuple[nn.Module, Card, Regime]:
    if config.weights:
        return adopt(config, data)
    if data is None:
        raise BadInput("without data a classifier cannot be trained; give classifier.weights")
    module, found = train(config, data, progress)
    return module, _card_of(data), found


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror}") from None


def train(config: ClassifierConfig, data: Dataset, progress: ProgressCallback | None = None) -> tuple[nn.Module, Regime]:
    """A new network, trained on all of `data` at once until `steps`, or until every residual is within `tolerance`.

    Raises:
        BadInput: an unknown classifier, a factory that cannot be used, or a loss that does not fit the classes.
        Diverged: the loss stopped being finite.
    """
    images, labels = data.train()
    module = _new(config, _card_of(data)).train()
    steps = fit.OPTIMISERS[config.optimiser](module, images, labels, config, progress)
    _settle_batch_norm(module, images)
    module.eval()
    return module, convergence.diagnose(module, images, labels, config.weight_decay, config.loss) | {"steps": steps}


def adopt(config: ClassifierConfig, data: Dataset | None) -> tuple[nn.Module, Card, Regime]:
    """The network with the user's weights, before normalisation, its card, and its regime where there is data.

    Raises:
        BadInput: weights, card, network and data do not fit each other; the first misfit is named.
        CorruptFile: the weights are damaged.
    """
    module, card = _new_or_given(config, data)
    if data is None:
        return module, card, {"steps": 0}
    images, labels = data.train()
    diagnosis = convergence.diagnose(custom.wrap(module, card), images, labels, config.weight_decay, config.loss)
    return module, card, diagnosis | {"steps": 0}


def untrained(config: ClassifierConfig, data: Dataset) -> Classifier:
    """A classifier for `data` before its training; the user's own has its weights. Raises as `obtain`."""
    module, card = _new_or_given(config, data)
    return Classifier(custom.wrap(module, card), card.class_names, card.shape, card.samples)


def _new_or_given(config: ClassifierConfig, data: Dataset | None) -> tuple[nn.Module, Card]:
    """A new network, or one with the user's weights, before normalisation."""
    if config.weights is None:
        assert data is not None
        card = _card_of(data)
        return _new(config, card).eval(), card
    card = custom.read_card(config)
    if data is not None:
        _check_same_task(config.card or config.weights, card, data)
    weights = custom.read_weights(Path(config.weights))
    module = _new(config, card)
    custom.fill(module, weights, config.weights)
    return module.eval(), card


def _new(config: ClassifierConfig, card: Card) -> nn.Module:
    if config.loss == "exponential" and len(card.class_names) != 2:
        raise BadInput(f"classifier.loss is exponential, which is for two classes; there are {len(card.class_names)}")
    outputs = 1 if config.loss == "exponential" else len(card.class_names)
    module = architectures.build(config, card.shape, outputs)
    custom.check_outputs(module, card.shape, outputs, f"classifier {config.factory or config.name}")
    return module


def _card_of(data: Dataset) -> Card:
    return Card(class_names=data.class_names, shape=data.shape, samples=len(data.train_labels))


def _check_same_task(source: str, card: Card, data: Dataset) -> None:
    if card.shape != data.shape:
        raise BadInput(f"{source}: the classifier takes images of {list(card.shape)}, {data.name} has {list(data.shape)}")
    if len(card.class_names) != len(data.class_names):
        raise BadInput(f"{source}: {len(card.class_names)} class_names, but {data.name} has {len(data.class_names)} classes")


@torch.no_grad()
def _settle_batch_norm(module: nn.Module, images: Tensor) -> None:
    """Make the stored statistics those of the final weights: the moving average lags behind them."""
    layers = [layer for layer in module.modules() if isinstance(layer, architectures.BATCH_NORMS)]
    for layer in layers:
        layer.momentum = 1.0
    module.train()
    module(images)
    for layer in layers:
        layer.momentum = 0.1
