"""The ranks that metrics without images give to trials of recorded sweeps, beside scores that look at real ones.

    python tests/benchmarks/free_score_candidates.py FOLDER [FOLDER …]

A folder is one in which sweeps were run with images: it holds mlruns/. Two tables of Spearman's rank correlations, each a mean
over groups of trials with the same classifier: of every trial at its first report, by what was logged there; and of the
generators that were kept, with further candidates that are measured on their evaluation samples. Seconds for each generator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from gbc import checkpoint, export
from gbc.classifiers import pretrain
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.kkt.row_space import RowSpaces
from gbc.report import rank_correlation
from gbc.training.generator import EVALUATION_SEED, Generator

TARGETS: Final = ("tstr/1nn", "ssim/coverage")
LOGGED: Final = {
    "free/score": 1, "free/confidence": 1, "free/rho": -1, "free/bn": -1, "classifier/accuracy": 1, "margin/q05": 1,
    "margin/q50": 1, "kkt/active": 1,
}  # fmt: skip
"""Logged metrics with the sign after which larger is better."""
FEWEST: Final = 4
"""Trials of a group; fewer rank nothing."""


def trials(folder: Path) -> Iterator[dict[str, Any]]:
    """The remains of each trial of each sweep: `settings`, `history` and, if its generator was kept, `trainer`."""
    for trial in sorted(folder.glob("mlruns/sweeps/*/trials/*/")):
        if (trial / "last.ckpt").exists():
            yield checkpoint.load(trial / "last.ckpt")
        elif (trial / "history.json").exists():
            yield json.loads((trial / "history.json").read_text())


@torch.no_grad()
def candidates(settings: TrialConfig, classifier: Classifier, state: dict[str, Any]) -> dict[str, float]:
    """Candidates for a data-free score of a kept generator; larger is meant to be better."""
    phi, classes = classifier.module.eval(), len(classifier.class_names)
    sizes = {"noise_dim": settings.noise_dim, "width": settings.width, "channels": settings.channels}
    generator = Generator(classes=classes, shape=classifier.shape, **sizes).eval()
    generator.load_state_dict(dict(export.generator_weights(state)))
    labels = torch.arange(classes).repeat(settings.eval_per_class)
    rng = torch.Generator().manual_seed(EVALUATION_SEED)
    images = generator(torch.randn(len(labels), settings.noise_dim, generator=rng), labels)

    def confidence(of: Tensor) -> Tensor:
        return phi(of).softmax(dim=1).gather(1, labels[:, None]).squeeze(1)

    sure, flat = confidence(images), images.flatten(1)
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    shifts = [(down, right) for down in range(3) for right in range(3) if (down, right) != (1, 1)]
    shifted = torch.stack([confidence(padded[:, :, d : d + height, r : r + width]) for d, r in shifts])
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    within = torch.stack([torch.cdist(flat[labels == label], flat[labels == label]).mean() for label in range(classes)]).mean()
    means = torch.stack([flat[labels == label].mean(dim=0) for label in range(classes)])
    distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)
    rows = RowSpaces(phi, torch.zeros(2, *classifier.shape), settings.row_space_eps)
    phi(images)
    return {
        "confidence after a shift by a pixel": shifted.mean().item(),
        "confidence after noise of 0.1": confidence((images + noise).clamp(0, 1)).mean().item(),
        "confidence in the worst class": min(sure[labels == label].mean().item() for label in range(classes)),
        "energy inside the row space": 1 - rows.costs().mean().item(),
        "distance within a class": within.item(),
        "distance between classes by that within": (torch.cdist(means, means).mean() / within).item(),
        "nearest other sample of the same class": (labels[distances.argmin(dim=1)] == labels).float().mean().item(),
    }


def table(frame: pd.DataFrame, metrics: list[str]) -> str:
    """Mean over groups of the rank correlation of each metric with each target."""
    groups = [group for _, group in frame.groupby("group") if len(group) >= FEWEST]
    lines = [f"{sum(map(len, groups))} trials in {len(groups)} groups", f"{'':40}" + "".join(f"{name:>16}" for name in TARGETS)]
    for metric in metrics:
        means = [pd.Series([rank_correlation(group, metric, target) for group in groups]).mean() for target in TARGETS]
        lines.append(f"{metric:40}" + "".join(f"{mean:16.2f}" for mean in means))
    return "\n".join(lines)


def lost(frame: pd.DataFrame) -> str:
    """For each group, how much of each target the choice by free/score gives away."""
    lines = []
    for name, group in frame.groupby("group"):
        picked = group.loc[group["free/score"].idxmax()]
        gaps = "".join(f"{group[target].max() - picked[target]:16.3f}" for target in TARGETS)
        lines.append(f"{name} ({len(group)})".ljust(40) + gaps)
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    cli = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    cli.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    torch.set_num_threads(1)
    first, kept = [], []
    for folder in cli.parse_args().folders:
        for trial in trials(folder):
            signed = [{key: LOGGED.get(key, 1) * value for key, value in report.items()} for report in trial["history"]]
            settings = TrialConfig.parse(trial["settings"], str(folder))
            data = datasets.load(settings.dataset)
            classifier, _, home = pretrain.obtain(settings.classifier, data, folder / "mlruns" / "classifiers")
            first.append({"group": home.name, **signed[0]})
            if "trainer" in trial:
                kept.append({"group": home.name, **signed[-1], **candidates(settings, classifier, trial["trainer"])})
    names = list(candidates_of(kept))
    print(table(unique(first), list(LOGGED)), "\n")
    print(table(unique(kept), [*LOGGED, *names]), "\n")
    print(f"of the kept generators of a group the one with the best free/score is below the best by\n{lost(unique(kept))}")


def candidates_of(rows: list[dict[str, Any]]) -> list[str]:
    """The names of the candidates in `rows`."""
    return [name for name in rows[0] if " " in name] if rows else []


def unique(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows without repetitions: the same trial may be in several folders."""
    return pd.DataFrame(rows).drop_duplicates(subset=["step", "free/score", *TARGETS])


if __name__ == "__main__":
    main()
