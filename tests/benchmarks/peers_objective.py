"""The KKT objective with images as the free variables, as the literature has it, beside our generator.

    python tests/benchmarks/peers_objective.py [--quick] [--threads N] [--device cpu|cuda] [--json FILE]

The form of Haim et al. (2022), for several classes as in Buzaglo et al. (2023): all images and one multiplier λ_i for each
are optimised by SGD with momentum; ‖θ − Σ_i λ_i ∇_θ (Φ_{y_i}(x_i) − max_{c≠y_i} Φ_c(x_i))‖², layer by layer, plus the hinges
λ ≥ λ_min and images in [−1, 1]; ReLU with the derivative σ(a·z). On the classifier that they have: no BatchNorm, the
width of the default preset. Two of ours on the same classifier, with as many images a step: the generator with Eqs. (5) and
(6), and the trainer's own pixels (`gbc.studies.baselines`, `kkt-pixels`).

A step is compared, not how many are needed: theirs moves the same images in every step and takes 10⁴ to 10⁵ of them; ours
draws fresh ones, and after training as many as wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import with_surrogate
from gbc.studies import baselines
from tests.benchmarks.harness import (
    Column,
    Options,
    Row,
    interleaved,
    milliseconds,
    peak_memory,
    pick,
    ratio,
    settings_of,
    trainer_of,
    turn,
    untrained,
)

NAME: Final = "peers_objective"
ABOUT: Final = "the KKT objective on free pixels (Haim et al. 2022), ours on pixels, our generator"
COLUMNS: Final = (
    Column("images", "images"),
    Column("literature_over_generator", "literature/generator", ".2f"),
    Column("literature_over_pixels", "literature/our pixels", ".2f"),
    Column("memory_ratio", "memory literature/generator", ".2f"),
    Column("literature_ms", "literature ms", ".1f"),
    Column("pixels_ms", "our pixels ms", ".1f"),
    Column("generator_ms", "generator ms", ".1f"),
    Column("literature_us_per_image", "literature µs/image", ".0f"),
    Column("generator_us_per_image", "generator µs/image", ".0f"),
    Column("literature_mb", "literature MB", ".0f"),
    Column("pixels_mb", "our pixels MB", ".0f"),
    Column("generator_mb", "generator MB", ".0f"),
)
_CLASSES: Final = 10


class PixelsOfTheLiterature:
    """Images x [K, …] in [−1, 1] and multipliers λ [K] as free variables."""

    def __init__(
        self, phi: nn.Module, shape: tuple[int, ...], count: int, *, slope: float = 100.0, least: float = 0.05,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        """`slope` is a of σ(a·z), `least` is λ_min."""
        device = device or torch.device("cpu")
        self.phi, self.least = with_surrogate(phi.to(device).eval(), slope), least
        rng = torch.Generator().manual_seed(0)
        start = 1e-2 * torch.randn(count, *shape, generator=rng)
        self.images = start.to(device).requires_grad_()
        self.multipliers = torch.rand(count, generator=rng).to(device).requires_grad_()
        self.labels = torch.arange(count, device=device) % _CLASSES
        self.images_optimiser = torch.optim.SGD([self.images], lr=0.1, momentum=0.9)
        self.multipliers_optimiser = torch.optim.SGD([self.multipliers], lr=0.01, momentum=0.9)

    def parts(self) -> dict[str, Tensor]:
        """The losses by name."""
        logits = self.phi(self.images)
        own = logits.gather(1, self.labels[:, None]).squeeze(1)
        others = logits.scatter(1, self.labels[:, None], -torch.inf).max(dim=1).values
        weighted = (self.multipliers * (own - others)).sum()
        parameters = list(self.phi.parameters())
        gradients = torch.autograd.grad(weighted, parameters, create_graph=True, retain_graph=True)
        stationarity = torch.zeros((), device=self.images.device)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            stationarity = stationarity + (parameter.detach() - gradient).pow(2).sum()
        return {
            "stationarity": stationarity,
            "multipliers": torch.relu(self.least - self.multipliers).pow(2).sum(),
            "range": torch.relu(self.images.abs() - 1).pow(2).sum(),
        }

    def step(self) -> None:
        """One step of both optimisers."""
        loss = torch.stack(list(self.parts().values())).sum()
        self.images_optimiser.zero_grad()
        self.multipliers_optimiser.zero_grad()
        self.phi.zero_grad()
        loss.backward()
        self.images_optimiser.step()
        self.multipliers_optimiser.step()


_CLASSIFIER: Final = {"classifier.name": "mlp", "lambda_policy": "uniform", "bn_weight": 0.0, "ce_weight": 0.0}


def literature(options: Options, images: int) -> Callable[[], object]:
    """Their step."""
    (classifier,) = untrained(settings_of("default", options, **_CLASSIFIER))
    return PixelsOfTheLiterature(classifier.module, classifier.shape, images, device=pick(options)).step


def generator(options: Options, images: int) -> Callable[[], object]:
    """Ours: Eqs. (5) and (6) and the total variation, networks g and h."""
    return trainer_of(settings_of("default", options, batch_size=images, **_CLASSIFIER)).step


def pixels(options: Options, images: int) -> Callable[[], object]:
    """The trainer's pixels, on a classifier of the same size."""
    changes = {"batch_size": images, "device": options.device, "eval_per_class": -(-images // _CLASSES)}
    hidden = settings_of("default", options).classifier.hidden
    settings = baselines.settings_of("kkt-pixels", {**changes, "classifier.hidden": hidden}, "peers_objective")
    return trainer_of(settings).step


CONTENDERS: Final = {"literature": literature, "pixels": pixels, "generator": generator}


def rows(options: Options) -> Iterator[Row]:
    """A row for each number of images."""
    for images in (128,) if options.quick else (128, 256, 512):
        steps = {name: turn(make(options, images), options) for name, make in CONTENDERS.items()}
        seconds = interleaved(steps, options.turns())
        memory = {f"{name}_mb": peak_memory(make, options, images) for name, make in CONTENDERS.items()}
        theirs, ours = memory["literature_mb"], memory["generator_mb"]
        yield {
            "images": images,
            "literature_over_generator": ratio(seconds["literature"], seconds["generator"]),
            "literature_over_pixels": ratio(seconds["literature"], seconds["pixels"]),
            "memory_ratio": theirs / ours if theirs and ours else None,
            **{f"{name}_ms": milliseconds(times) for name, times in seconds.items()},
            **{f"{name}_us_per_image": 1e3 * milliseconds(times) / images for name, times in seconds.items()},
            **memory,
        }


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
