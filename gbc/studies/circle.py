"""The 2-D example of section 5.1: Figs. 4 and 5 as a picture, and the numbers that the paper does not give.

There are classifiers of all 18 points of the circle (D) and of two halves (D1, D2), generators g, g1, g2 of one set of points
each and g1+2 of both halves, and g1+2 with its index t fixed. The control of each generator is points from the region where its
classifier is confident, as a generator trained for high confidence alone would give.

Where the paper has one classifier of a set, this study has `CLASSIFIERS` with different seeds. A KKT point has its training
points on the curve where the margin is smallest, Eq. (6). The curve of one classifier also passes between the points; the
curves of several classifiers meet at the points.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gbc import pictures
from gbc.checkpoint import write_atomic
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.data.samples import PointDataset
from gbc.training import tasks
from gbc.training.tasks import TrialInputs
from gbc.training.trainer import Trainer

SAMPLES: Final = 600
CLASSIFIERS: Final = 4
COVERED_WITHIN: Final = 0.15  # neighbours on the circle are 0.35 apart
_WINDOW: Final = 1.6

SETTINGS: Final[dict[str, Any]] = {
    "classifier": {
        "name": "mlp", "hidden": 40, "optimiser": "converge", "lr": 0.1, "weight_decay": 1e-3, "steps": 6000, "polish": 1500,
    },
    "batch_size": 180,
    "width": 128,
    "noise_dim": 1,
    "multiplier_width": 64,
    "steps": 4500,
    "report_every": 500,
    "lr": 2e-3,
    "lr_schedule": "cosine",
    "weight_decay": 0.0,
    "tv_weight": 0.0,
    "stationarity_weight": 0.0,
    "beta": 1.0,
    "delta": 0.5,
    # A learned α follows samples that belong to no class yet, and so the required margin shrinks.
    "alpha": "last_layer",
    "device": "cpu",
}  # fmt: skip


def settings(*parts: int | None, seed: int = 0, steps: int | None = None, classifiers: int | None = None) -> TrialConfig:
    """Settings of a generator for `classifiers` classifiers of each of `parts` of the circle; part None is the whole circle."""
    classifiers = classifiers or CLASSIFIERS
    plain = {**SETTINGS, **({"steps": steps, "report_every": steps} if steps else {}), "seed": seed}
    experts = [
        {
            "classifier": {**SETTINGS["classifier"], "seed": seed * classifiers + number},
            "dataset": {"name": "circle", "part": part},
        }
        for part in parts
        for number in range(classifiers)
    ]
    return TrialConfig.parse({**plain, **experts[0], "experts": experts[1:]}, "circle")


def run(
    out: Path, cache: Path, steps: int | None = None, say: Callable[[str], None] = print, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train all classifiers and generators, write `circle.png` and `circle.json` into `out`, return the scores of each panel.

    `seed` decides classifiers, generators and samples.

    Raises:
        BadInput: `out` cannot be written.
    """
    setups: dict[str, tuple[int | None, ...]] = {"g": (None,), "g1": (1,), "g2": (2,), "g1+2": (1, 2)}
    rng = torch.Generator().manual_seed(seed)
    panels: dict[str, tuple[Tensor, Tensor]] = {}
    inputs_by_name: dict[str, TrialInputs] = {}
    for name, parts in setups.items():
        config = settings(*parts, seed=seed, steps=steps)
        inputs_by_name[name] = tasks.obtain(config, cache)
        trainer = Trainer(config, inputs_by_name[name].classifiers)
        *_, report = trainer.run()
        say(f"{name}: {config.steps} steps, duality {report.metrics['loss/duality']:.3f}")
        panels[name] = draw_points(trainer, rng)
        if name == "g1+2":
            for task in (0, 1):
                panels[f"g1+2, t={task + 1}"] = draw_points(trainer, rng, task)
    truths = {name: _points(inputs_by_name["g1+2" if name.startswith("g1+2") else name]) for name in panels}
    truths |= {f"g1+2, t={part}": _points(inputs_by_name[f"g{part}"]) for part in (1, 2)}
    scores = {name: score(points, labels, *truths[name]) for name, (points, labels) in panels.items()}
    for name in ("g", "g1", "g2"):
        control = confident_points(inputs_by_name[name].classifier, rng)
        scores[f"{name}, control: confident region"] = score(*control, *truths[name])
    write_atomic(out / "circle.json", json.dumps(scores, indent=2).encode())
    _draw(out / "circle.png", panels, truths, inputs_by_name, scores)
    return scores


def _points(inputs: TrialInputs) -> tuple[Tensor, Tensor]:
    """The training points [N, 2] of all classifiers, and their labels [N]."""
    assert isinstance(inputs.data, PointDataset)
    return inputs.data.train()


def draw_points(trainer: Trainer, rng: torch.Generator, task: int | None = None) -> tuple[Tensor, Tensor]:
    """(points [SAMPLES, 2], labels [SAMPLES]) from new noise, for classifier index `task`, or for all of them in turn."""
    labels = torch.arange(3).repeat(SAMPLES // 3)
    noise = torch.randn(SAMPLES, trainer.config.noise_dim, generator=rng)
    turns = (torch.arange(SAMPLES) // 3) % len(trainer.labels_of_task) if task is None else torch.full_like(labels, task)
    return trainer.sample(noise, labels, turns), labels


def score(points: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> dict[str, float]:
    """Distances of generated points [K, 2] with labels [K] to training points [N, 2] of their class, and the covered share.

    Mean and 95% quantile of the distance to the nearest training point; the share of training points with a generated point of
    their class within `COVERED_WITHIN`.
    """
    distances = torch.cdist(points, real)
    distances = torch.where(labels[:, None] == real_labels[None, :], distances, torch.inf)
    nearest = distances.min(dim=1).values
    return {
        "distance/mean": nearest.mean().item(),
        "distance/q95": nearest.quantile(0.95).item(),
        "covered": (distances.min(dim=0).values < COVERED_WITHIN).float().mean().item(),
    }


def confident_points(classifier: Classifier, rng: torch.Generator, threshold: float = 0.9) -> tuple[Tensor, Tensor]:
    """(points [K, 2], labels [K]), uniform over the part of the window where the confidence is above `threshold`."""
    points = (2 * torch.rand(20_000, 2, generator=rng) - 1) * _WINDOW
    with torch.no_grad():
        confidence, labels = classifier.module(points).softmax(dim=1).max(dim=1)
    kept = torch.nonzero(confidence > threshold).squeeze(1)[:SAMPLES]
    return points[kept], labels[kept]


def _draw(
    path: Path,
    panels: dict[str, tuple[Tensor, Tensor]],
    truths: dict[str, tuple[Tensor, Tensor]],
    inputs_by_name: dict[str, TrialInputs],
    scores: dict[str, dict[str, float]],
) -> None:
    """Write the picture as in Figs. 4 and 5: classes of three classifiers above, samples of the panels below."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 11), layout="constrained")
    axes = figure.subplots(3, 3)
    grid = torch.linspace(-_WINDOW, _WINDOW, 300)
    mesh = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1)
    palette = torch.tensor([to_rgb(colour) for colour in pictures.COLOURS[:3]])
    for axis, (name, title) in zip(axes[0], {"g": "D", "g1": "D1", "g2": "D2"}.items(), strict=True):
        with torch.no_grad():
            odds = inputs_by_name[name].classifier.module(mesh.flatten(0, 1)).softmax(dim=1)
        # White where the classifier is undecided, as in the paper.
        certainty = ((odds.max(dim=1).values - 1 / 3) * 1.5).clamp(0, 1)[:, None] * 0.6
        shade = certainty * palette[odds.argmax(dim=1)] + 1 - certainty
        axis.imshow(shade.view(300, 300, 3).numpy(), origin="lower", extent=(-_WINDOW, _WINDOW, -_WINDOW, _WINDOW))
        _scatter(axis, *truths[name], palette, size=40, edge="black")
        axis.set_title(f"a classifier of {title}")
    for axis, (name, (points, labels)) in zip(axes[1:].flat, panels.items(), strict=True):
        _scatter(axis, points, labels, palette, size=6, edge="none")
        axis.scatter(*truths[name][0].T.numpy(), s=60, facecolors="none", edgecolors="black", linewidths=0.8)
        values = scores[name]
        axis.set_title(f"{name}: distance {values['distance/mean']:.2f}, covered {values['covered']:.0%}")
    for axis in axes.flat:
        axis.set(xlim=(-_WINDOW, _WINDOW), ylim=(-_WINDOW, _WINDOW), aspect="equal", xticks=[], yticks=[])
    write_atomic(path, pictures.figure_png(figure, dpi=90))


def _scatter(axis: Any, points: Tensor, labels: Tensor, palette: Tensor, size: int, edge: str) -> None:
    axis.scatter(*points.T.numpy(), c=palette[labels].numpy(), s=size, edgecolors=edge, linewidths=0.6)
