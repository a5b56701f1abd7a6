"""The KKT multipliers: μ = ReLU(h(x, y, t; η)), the network of section 4, or free numbers.

A floor closes the trivial solution of Eq. (5), μ → 0, as the penalty on small multipliers does in Haim et al. (2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gbc.config import TrialConfig
from gbc.layers import one_hot


class MultiplierNetwork(nn.Module):
    """Maps samples [M, …], labels [M] and the number of a classifier to multipliers μ ≥ 0, [M, C]."""

    scale: Tensor

    def __init__(self, *, classes: int, shape: tuple[int, ...], width: int, classifiers: int = 1, floor: float = 0.0) -> None:
        """Two hidden layers of `width` units; `classes` is the most that any classifier has; μ ≥ `floor`·scale."""
        super().__init__()
        self.classes, self.classifiers, self.floor = classes, classifiers, floor
        self.layers = nn.Sequential(
            nn.Linear(math.prod(shape) + classes + (classifiers if classifiers > 1 else 0), width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, classes),
        )  # fmt: skip
        # Factor on μ. The trainer fits it once for each classifier, so that both sides of Eq. (5) start at the same size.
        self.register_buffer("scale", torch.ones(classifiers))

    def forward(self, images: Tensor, labels: Tensor, classifier: int = 0) -> Tensor:
        """Multipliers [M, C]; Eq. (5) does not use the entry of a sample's own class."""
        condition = [images.flatten(1), one_hot(labels, self.classes).to(images.dtype)]
        if self.classifiers > 1:
            classifier_index = torch.zeros(len(images), self.classifiers, device=images.device)
            classifier_index[:, classifier] = 1
            condition.append(classifier_index)
        return self.scale[classifier] * (torch.relu(self.layers(torch.cat(condition, dim=1))) + self.floor)


class FreeMultipliers(nn.Module):
    """One multiplier λ_i ≥ λ_min for each of a fixed set of images and each classifier, as in Haim et al. (2022).

    They keep λ_i above λ_min by a penalty; here λ = λ_min + s·softplus(v), which always satisfies the bound.
    """

    scale: Tensor

    def __init__(self, *, count: int, least: float, classes: int = 1, classifiers: int = 1) -> None:
        """`count` images; `least` is λ_min. With several `classes` there is one multiplier for each image and class."""
        super().__init__()
        self.count, self.least, self.classes = count, least, classes
        self.values = nn.Parameter(torch.zeros(classifiers, count, classes))
        # s; fitted like the network's. λ may be hundreds or hundredths, depending on weight decay and the number of images.
        self.register_buffer("scale", torch.ones(classifiers))

    def start(self, rng: torch.Generator) -> None:
        """Draw (λ − λ_min)/s uniformly from (0, 1)."""
        with torch.no_grad():
            drawn = torch.rand(self.values.shape, generator=rng).clamp_min(1e-3)
            self.values.copy_(torch.log(torch.expm1(drawn)))

    def forward(self, numbers: Tensor, logits: Tensor, labels: Tensor, classifier: int = 0) -> Tensor:
        """Multipliers [M, C] of the images with these numbers [M], for `logits` [M, C] and `labels` [M].

        A single λ_i for each image acts on the strongest wrong class alone: the sum in Eq. (5) is then that of
        λ_i (Φ_y − max_{c≠y} Φ_c), Buzaglo et al. (2023).
        """
        values = self.least + self.scale[classifier] * nn.functional.softplus(self.values[classifier, numbers])
        if self.classes > 1:
            return values[:, : logits.shape[1]]
        rival = logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(dim=1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, rival, values)


Multipliers = MultiplierNetwork | FreeMultipliers


def build(config: TrialConfig, *, classes: int, shape: tuple[int, ...], classifiers: int, images: int | None) -> Multipliers:
    """The multipliers of `config`, not initialised yet; `images` is the number of fixed images, None for a generator."""
    if config.multipliers == "network" or images is None:
        return MultiplierNetwork(
            classes=classes, shape=shape, width=config.multiplier_width, classifiers=classifiers, floor=config.multiplier_floor
        )
    by_class = classes if config.multipliers == "free_by_class" else 1
    return FreeMultipliers(count=images, least=config.lambda_min, classes=by_class, classifiers=classifiers)
