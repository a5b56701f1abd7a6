"""Classifiers, trained once or taken from the user, and cached with their regimes for every trial of a sweep."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from gbc import cache as caches
from gbc import plain_yaml
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import adaptation, architectures, convergence, custom, fit, libraries, weight_files
from gbc.classifiers.architectures import Classifier
from gbc.classifiers.convergence import Regime
from gbc.classifiers.custom import Card
from gbc.classifiers.fit import ProgressCallback
from gbc.data.datasets import Dataset
from gbc.errors import BadInput
from gbc.settings import digest

_CARD: Final = "model.yaml"
_REGIME: Final = "regime.json"
OtherCache = Callable[[str], Mapping[str, bytes] | None]
"""Reads a second cache: the files of a classifier by the name of its folder, or None if it does not have that folder."""

SCHEMA: Final = 2  # raise when a change here makes cached classifiers differ
_ADDED_LATER: Final[dict[str, object]] = {
    name: ClassifierConfig.model_fields[name].default for name in ("decay", "first_scale", "depth")
}
_ADDED_TO_CARD: Final = ("resize",)


def identity(config: ClassifierConfig, data: Dataset | None) -> str:
    """Sixteen hex digits that name the classifier `config` trained on `data`. Files count by their content, not their path.

    Raises:
        BadInput: a factory, weights or a card that cannot be read.
    """
    settings = config.model_dump(mode="json", exclude={"weights", "card"})
    # A setting that was added later is left out at its default, so that classifiers cached before it stay valid.
    settings = {key: value for key, value in settings.items() if key not in _ADDED_LATER or value != _ADDED_LATER[key]}
    if config.factory:
        library = libraries.is_library(config.factory)
        settings["source"] = (libraries if library else custom).source_digest(config.factory)
    if config.weights:
        settings["weights"] = _file_digest(Path(config.weights))
        card = custom.read_card(config).model_dump(mode="json")
        settings["card"] = {key: value for key, value in card.items() if key not in _ADDED_TO_CARD or value is not None}
    return digest({"schema": SCHEMA, "classifier": settings, "data": data.digest() if data else None})


def classifier_folder(config: ClassifierConfig, data: Dataset | None, cache: Path) -> Path:
    """The folder in `cache` for this classifier; it need not exist. Raises as `identity`."""
    return cache / f"{data.name if data else 'own'}-{config.label}-{identity(config, data)}"


def obtain(
    config: ClassifierConfig,
    data: Dataset | None,
    cache: Path,
    progress: ProgressCallback | None = None,
    other_cache: OtherCache | None = None,
) -> tuple[Classifier, Regime, Path]:
    """The classifier from `cache`, as (classifier, regime, folder).

    A classifier that the cache lacks is fetched from `other_cache`, made from the user's weights, or trained, and then cached.
    Without `data` there must be weights, and their regime is not known. Several processes may call this at once: one trains,
    the others wait.

    Raises:
        BadInput: an unknown classifier, a user's classifier that cannot be used, or a cache that cannot be written.
        CorruptFile: the cached files are damaged.
        Diverged: the loss stopped being finite.
    """
    folder = classifier_folder(config, data, cache)

    def make() -> Mapping[str, bytes]:
        if other_cache is not None and (files := other_cache(folder.name)):
            return files
        module, card, regime = _make(config, data, progress)
        return {
            caches.WEIGHTS: caches.weights_as_bytes(module),
            # The default name of a card beside weights, so that --weights can name the file in this folder.
            _CARD: plain_yaml.dump(card.model_dump(mode="json", exclude_none=True)).encode(),
            _REGIME: json.dumps(regime, indent=2).encode(),
            "config.json": config.model_dump_json(indent=2).encode(),
        }

    caches.fill_once(folder, make)
    return load(folder, config)


def load(folder: Path, config: ClassifierConfig) -> tuple[Classifier, Regime, Path]:
    """The classifier stored in `folder`, as (classifier, regime, folder).

    Raises:
        BadInput: a factory that cannot be used.
        CorruptFile: a file is missing, damaged or belongs to another architecture.
    """
    try:
        card = Card.parse(plain_yaml.load(folder / _CARD), _CARD)
    except (OSError, BadInput) as fault:
        raise caches.damaged_folder(folder, fault) from None
    module, _ = _new(config, card)
    adaptation.fold_parametrisations(module)
    regime = caches.restore(folder, module, _REGIME)
    module = custom.with_preprocessing(module, card).eval()
    return Classifier(module, card.class_names, card.shape, card.samples), regime, folder


def _make(config: ClassifierConfig, data: Dataset | None, progress: ProgressCallback | None) -> tuple[nn.Module, Card, Regime]:
    if config.weights:
        return with_user_weights(config, data)
    if data is None:
        raise BadInput("without data a classifier cannot be trained; give classifier.weights")
    module, regime = train(config, data, progress)
    return module, _card_of(data), regime


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror}") from None


def train(config: ClassifierConfig, data: Dataset, progress: ProgressCallback | None = None) -> tuple[nn.Module, Regime]:
    """A new network trained on all of `data` by the optimiser of `config`, in eval mode, and its regime.

    Raises:
        BadInput: an unknown classifier, a factory that cannot be used, or a loss that does not fit the classes.
        Diverged: the loss stopped being finite.
    """
    images, labels = data.train()
    module, changes = _new(config, _card_of(data))
    module.train()
    steps = fit.OPTIMISERS[config.optimiser](module, images, labels, config, progress)
    _settle_batch_norm(module, images)
    changes += adaptation.fold_parametrisations(module)
    regime = convergence.diagnose(module, images, labels, config.weight_decay, config.loss)
    return module, regime | {"steps": steps} | _as_regime(changes)


def with_user_weights(config: ClassifierConfig, data: Dataset | None) -> tuple[nn.Module, Card, Regime]:
    """The network with the user's weights, without preprocessing, its card, and its regime if there is data.

    Raises:
        BadInput: weights, card, network and data do not fit each other. The message names the first conflict.
        CorruptFile: the weights are damaged.
    """
    module, card, changes = _new_or_given(config, data)
    if data is None:
        return module, card, {"steps": 0} | _as_regime(changes)
    images, labels = data.train()
    whole = custom.with_preprocessing(module, card)
    diagnosis = convergence.diagnose(whole, images, labels, config.weight_decay, config.loss)
    # By the stored statistics, as its owner measured it.
    diagnosis["accuracy"] = convergence.accuracy(whole, images, labels)
    return module, card, diagnosis | {"steps": 0} | _as_regime(changes)


def untrained(config: ClassifierConfig, data: Dataset | None) -> Classifier:
    """The classifier for `data` before its training; one with the user's weights has them. Raises as `obtain`."""
    module, card, _ = _new_or_given(config, data)
    return Classifier(custom.with_preprocessing(module, card), card.class_names, card.shape, card.samples)


def _new_or_given(config: ClassifierConfig, data: Dataset | None) -> tuple[nn.Module, Card, list[str]]:
    """A new network, or one with the user's weights, before preprocessing; and the changes that were made to use it."""
    if config.weights is None:
        assert data is not None
        card = _card_of(data)
        module, changes = _new(config, card)
        return module.eval(), card, changes
    card = custom.read_card(config)
    if data is not None:
        check_same_task(str(custom.card_path(config)), card, data)
    weights = weight_files.read_weights(Path(config.weights))
    module, changes = _new(config, card)
    if config.factory and libraries.is_library(config.factory):
        outputs = 1 if config.loss == "exponential" else len(card.class_names)
        libraries.check_weights(module, card.input_shape, outputs, weights, (config.weights, str(custom.card_path(config))))
        weights = libraries.renamed_weights(config.factory, Path(config.weights)) or weights
    if prefix := weight_files.load_weights(module, weights, config.weights):
        changes.append(f"{prefix!r} is taken off the names of the weights")
    changes += adaptation.fold_parametrisations(module)
    return module.eval(), card, changes


def _new(config: ClassifierConfig, card: Card) -> tuple[nn.Module, list[str]]:
    """A new network that gives logits, and the changes that this took."""
    if config.loss == "exponential" and len(card.class_names) != 2:
        raise BadInput(f"classifier.loss is exponential, which is for two classes; there are {len(card.class_names)}")
    outputs = 1 if config.loss == "exponential" else len(card.class_names)
    shape = card.input_shape
    module = architectures.build(config, shape, outputs)
    described = f"{custom.card_path(config)} and " if config.weights else ""
    custom.check_outputs(module, shape, outputs, f"{described}classifier {config.factory or config.name}")
    changes = adaptation.take_off_softmax(module, shape) + adaptation.make_logits(module, shape)
    changes += adaptation.varying_outputs(module, shape)
    if card.resize is not None:
        changes.append(f"images of {list(card.shape)} are resized to {list(card.resize)} for the network")
    return module, changes


def _as_regime(changes: list[str]) -> Regime:
    """The changes as a part of the regime, which commands print and MLflow holds."""
    return {"changes": changes} if changes else {}


def _card_of(data: Dataset) -> Card:
    return Card(class_names=data.class_names, shape=data.shape, samples=len(data.train_labels))


def check_same_task(source: str, card: Card, data: Dataset) -> None:
    """Check that the classifier of a card can be used with `data`; `source` names the card in errors.

    Raises:
        BadInput: other images, another number of classes, or the same classes in another order.
    """
    if card.shape != data.shape:
        remedy = f"; to resize them, write shape: {list(data.shape)} and resize: {list(card.input_shape)}"
        raise BadInput(
            f"{source}: the classifier takes images of {list(card.shape)}, {data.name} has {list(data.shape)}{remedy}"
        )
    if len(card.class_names) != len(data.class_names):
        raise BadInput(f"{source}: {len(card.class_names)} class_names, but {data.name} has {len(data.class_names)} classes")
    pairs = enumerate(zip(card.class_names, data.class_names, strict=True))
    if set(card.class_names) == set(data.class_names) and (different := [each for each in pairs if each[1][0] != each[1][1]]):
        number, (of_card, of_data) = different[0]
        raise BadInput(
            f"{source}: output {number} is {of_card!r}, but label {number} of {data.name} is {of_data!r}; list the classes in "
            "the order of the outputs with dataset.classes"
        )


@torch.no_grad()
def _settle_batch_norm(module: nn.Module, images: Tensor) -> None:
    """Set the stored statistics to those of the final weights, because the moving average lags behind.

    Of a large set they are the mean over equal parts, each of all classes: images are in the order of their labels.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, architectures.BATCH_NORMS)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over passes
    module.train()
    parts = math.ceil(len(images) / convergence.AT_ONCE)
    for part in range(parts):
        module(images[part::parts])
    for layer in layers:
        layer.momentum = 0.1
