"""All classifiers and all data of a trial, one of each or several (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from gbc.classifier_config import ClassifierConfig, TrialClassifierConfig
from gbc.classifiers import custom, pretrain
from gbc.classifiers.architectures import Classifier
from gbc.classifiers.convergence import Regime
from gbc.classifiers.fit import ProgressCallback
from gbc.config import LOSS_WEIGHTS, TrialConfig
from gbc.data import datasets
from gbc.data.data_free import DataFreeTask, TaskData, data_free_task
from gbc.data.samples import MOST_CLASSES, Dataset, ImageDataset, Labels, PointDataset
from gbc.errors import BadInput
from gbc.kkt import availability, row_space
from gbc.kkt.spectrum import spectra
from gbc.metrics.scores import ReferenceSet

Announce = Callable[[ClassifierConfig], ProgressCallback]
"""Called before a classifier is obtained; returns the function that receives the progress of its training."""
_LITTLE_BETTER: Final = 1.5
"""A classifier that is right less than so many times as often as guessing has not learned, or sees other images."""


@dataclass(frozen=True)
class TrialInputs:
    """Inputs of a trainer besides its settings."""

    classifiers: tuple[Classifier, ...]
    regimes: tuple[Regime, ...]
    folders: tuple[Path, ...]
    """Folder of each classifier in the cache."""
    data: TaskData
    """Data of all classifiers together. Samples are compared with it, never trained on it."""

    @property
    def images(self) -> ImageDataset:
        """The data, if they are images.

        Raises:
            BadInput: they are points, or there are none.
        """
        if isinstance(self.data, DataFreeTask):
            raise BadInput("dataset none: there are no images to compare with; name a data set that has them")
        if not isinstance(self.data, ImageDataset):
            raise BadInput(f"{self.data.name} holds points, not images; draw it with `python -m gbc circle`")
        return self.data

    def reference(self, device: torch.device | str) -> ReferenceSet | None:
        """The images that samples are compared with, on `device`; None where there are none. Raises as `images` for points."""
        return None if isinstance(self.data, DataFreeTask) else ReferenceSet.of(self.images, device)

    @property
    def classifier(self) -> Classifier:
        """The first one."""
        return self.classifiers[0]


def obtain(
    config: TrialConfig, cache: Path, announce: Announce | None = None, other_cache: pretrain.OtherCache | None = None
) -> TrialInputs:
    """Load the data and obtain every classifier, as `pretrain.obtain` does.

    Raises:
        BadInput, CorruptFile, Diverged: as `datasets.load` and `pretrain.obtain`.
        BadInput: the trial uses a row space, and a classifier has none. Raised before any classifier is trained.
    """
    specs, sets = config.classifiers(), _sets_of(config)
    for spec, data in zip(specs, sets, strict=True):
        if uses_row_space(config, spec):
            module = pretrain.untrained(spec.classifier, _training_set(data)).module
            row_space.row_space_layers(module, torch.zeros(2, *data.shape))
    obtained = []
    for spec, data in zip(specs, sets, strict=True):
        progress = announce and announce(spec.classifier)
        obtained.append(pretrain.obtain(spec.classifier, _training_set(data), cache, progress, other_cache))
    classifiers, regimes, folders = zip(*obtained, strict=True)
    return TrialInputs(classifiers, regimes, folders, merged(sets))


def untrained(config: TrialConfig) -> TrialInputs:
    """The inputs that `obtain` gives, but with classifiers before their training, no regimes and no folders. Writes nothing."""
    specs, sets = config.classifiers(), _sets_of(config)
    classifiers = [pretrain.untrained(spec.classifier, _training_set(data)) for spec, data in zip(specs, sets, strict=True)]
    return TrialInputs(tuple(classifiers), (), (), merged(sets))


def uses_row_space(config: TrialConfig, spec: TrialClassifierConfig) -> bool:
    """True if the row-space loss of this classifier has a weight above 0."""
    return bool(config.row_space_weight * spec.factor("row_space"))


def cached(config: TrialConfig, cache: Path) -> bool:
    """True if every classifier is in the cache, so that `obtain` trains none.

    Raises:
        BadInput: as `datasets.load`, or the weights of the user's own classifier cannot be read.
    """
    return all(
        pretrain.classifier_folder(spec.classifier, _training_set(data), cache).exists()
        for spec, data in zip(config.classifiers(), _sets_of(config), strict=True)
    )


def data_of(spec: TrialClassifierConfig) -> TaskData:
    """The data of a classifier; for data set `none`, what the classifier's card says of them.

    Classes have the names that the card of the user's weights gives them.

    Raises:
        BadInput: as `datasets.load`; a card that does not fit the data; without images, a classifier without weights, or a card
            that `data_free_task` refuses.
    """
    if not spec.dataset.data_free:
        data = datasets.load_any(spec.dataset)
        if spec.classifier.weights is None:
            return data
        card = custom.read_card(spec.classifier)
        pretrain.check_same_task(str(custom.card_path(spec.classifier)), card, data)
        return replace(data, class_names=card.class_names)
    if spec.classifier.weights is None:
        raise BadInput("dataset none: a classifier cannot be trained without images; give its weights with --weights FILE")
    card = custom.read_card(spec.classifier)
    source = spec.classifier.card or f"card of {spec.classifier.weights}"
    return data_free_task(spec.dataset, card.shape, card.class_names, source)


def _sets_of(config: TrialConfig) -> list[TaskData]:
    """The data of each classifier of a trial: images for all of them, or for none."""
    sets = [data_of(spec) for spec in config.classifiers()]
    if len({isinstance(data, DataFreeTask) for data in sets}) > 1:
        raise BadInput("experts: dataset none beside others; give images for each classifier, or dataset none for all")
    if config.data_free and config.student_steps:
        raise BadInput(f"student_steps is {config.student_steps}: dataset none has no images to test students on; leave it out")
    return sets


def _training_set(data: TaskData) -> Dataset | None:
    return None if isinstance(data, DataFreeTask) else data


def merged(sets: Sequence[TaskData]) -> TaskData:
    """The samples of several data sets, each different set once. Labels number the class names in order of first appearance.

    Raises:
        BadInput: their samples differ in shape, or they have too many classes.
    """
    different: dict[str, TaskData] = {}
    for data in sets:
        different.setdefault(data.digest(), data)
    parts = list(different.values())
    if len({part.shape for part in parts}) > 1:
        raise BadInput(f"the data sets hold images of different shapes: {', '.join(str(part.shape) for part in parts)}")
    names = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
    if len(parts) == 1:
        return parts[0]

    def renumbered(part: ImageDataset | PointDataset, labels: Labels) -> Labels:
        return np.array([names.index(name) for name in part.class_names], dtype=np.uint8)[labels]

    title = "+".join(dict.fromkeys(part.name for part in parts))
    labelled = [part for part in parts if not isinstance(part, DataFreeTask)]
    if not labelled:
        return DataFreeTask(title, names, parts[0].shape)
    if len(names) > MOST_CLASSES:
        most = f"{MOST_CLASSES} at most can be compared with images"
        raise BadInput(f"the data sets have {len(names)} classes together; {most}: leave some out with dataset.classes")
    train_labels = np.concatenate([renumbered(part, part.train_labels) for part in labelled])
    points = [part for part in labelled if isinstance(part, PointDataset)]
    if points:
        return PointDataset(title, names, np.concatenate([part.train_points for part in points]), train_labels)
    pictures = [part for part in labelled if isinstance(part, ImageDataset)]
    return ImageDataset(
        title,
        names,
        np.concatenate([part.train_images for part in pictures]),
        train_labels,
        np.concatenate([part.test_images for part in pictures]),
        np.concatenate([renumbered(part, part.test_labels) for part in pictures]),
    )


def findings(config: TrialConfig, inputs: TrialInputs) -> list[dict[str, Any]]:
    """Λ of each classifier and the losses that it cannot have, as plain data (`gbc.kkt.availability.findings`)."""
    return [
        availability.findings(classifier, spec.classifier.weight_decay, config)
        for classifier, spec in zip(inputs.classifiers, config.classifiers(), strict=True)
    ]


def remarks(of_each: Sequence[Mapping[str, Any]], config: TrialConfig, searched: Container[str] = ()) -> Iterator[str]:
    """Lines about `findings`: losses of the settings that are off, and Λ where a layer limits it.

    `searched` are the settings that a sweep varies. BatchNorm statistics are off only if no classifier has any.
    """
    wanted = [setting for setting in LOSS_WEIGHTS.values() if setting in searched or getattr(config, setting)]
    for number, finding in enumerate(of_each, start=1):
        prefix = f"classifier {number}: " if len(of_each) > 1 else ""
        settings_of: dict[str, list[str]] = {}
        for setting, reason in finding.get("off", {}).items():
            shared = setting != "bn_weight" or all(setting in other.get("off", {}) for other in of_each)
            if setting in wanted and shared:
                settings_of.setdefault(reason, []).append(setting)
        for reason, settings in settings_of.items():
            removals = " ".join(f"--set {setting}=0" for setting in settings if setting in searched)
            remedy = f" (out of the space: {removals})" if removals else ""
            yield f"{prefix}off: {' and '.join(settings)}, because {reason}{remedy}"
        limits = finding.get("lambda", {})
        if limits.get("limited_by") and "stationarity_weight" in wanted:
            yield f"{prefix}{limits['sentence']}"


def accuracy_remarks(inputs: TrialInputs) -> Iterator[str]:
    """A warning for each classifier that hardly knows the training images better than by guessing."""
    for classifier, regime, folder in zip(inputs.classifiers, inputs.regimes, inputs.folders, strict=True):
        chance, accuracy = 1 / len(classifier.class_names), regime.get("accuracy")
        if accuracy is not None and accuracy < _LITTLE_BETTER * chance:
            yield (
                f"warning: classifier {folder.name} is right on {accuracy:.0%} of the training images, guessing on "
                f"{chance:.0%}: its training was too short, or mean, std or the order of class_names in its card are wrong"
            )


def row_space_remarks(config: TrialConfig, inputs: TrialInputs) -> Iterator[str]:
    """Lines with the spectra of each classifier whose row space the trial uses, and a warning if one is not informative."""
    for spec, classifier, folder in zip(config.classifiers(), inputs.classifiers, inputs.folders, strict=True):
        if not uses_row_space(config, spec):
            continue
        for spectrum in spectra(classifier.module, torch.zeros(2, *classifier.shape), config.row_space_layers):
            yield f"classifier {folder.name}: {spectrum.summary()}"
            if not spectrum.informative:
                yield (
                    "warning: the row-space loss has no information there; set row_space_weight=0, or train the classifier "
                    "with classifier.optimiser=converge and classifier.decay=all, longer or with more classifier.weight_decay"
                )
