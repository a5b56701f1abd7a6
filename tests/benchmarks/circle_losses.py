"""Other losses than those of `python -m gbc circle`, on the same points: the second table of its section in docs/log.md.

    python tests/benchmarks/circle_losses.py [CACHE]

Panel g alone, seeds 0 to 2; about ten minutes on one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import torch

from gbc.studies import circle
from gbc.training import tasks
from gbc.training.trainer import Trainer

LEARNED: Final = {"alpha": "learned", "stationarity_weight": 1.0}
ROWS: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "Eq. (6), margin held; one classifier": ({}, 1),
    "Eq. (5) last_layer and Eq. (6), α learned; one classifier": (LEARNED, 1),
    "the closed form; one classifier": ({"alpha": "learned", "closed_weight": 1.0, "beta": 0.0}, 1),
    "Eq. (5) last_layer and Eq. (6), α learned; four classifiers": (LEARNED, 4),
    "Eq. (6), margin held; four classifiers": ({}, 4),
}
"""By name: (changes to the command's settings, classifiers)."""


def main(cache: Path) -> None:
    """Print a line for each row and seed."""
    torch.set_num_threads(1)
    for name, (changes, classifiers) in ROWS.items():
        for seed in range(3):
            config = circle.settings(None, seed=seed, classifiers=classifiers).updated(changes, name)
            inputs = tasks.obtain(config, cache)
            trainer = Trainer(config, inputs.classifiers)
            *_, report = trainer.run()
            points = circle.draw_points(trainer, torch.Generator().manual_seed(0))
            scores = circle.score(*points, *inputs.data.train())
            rho = f"  ρ {report.metrics['kkt/rho']:.3f}" if "kkt/rho" in report.metrics else ""
            print(
                f"{name:60} seed {seed}  " + "  ".join(f"{key} {value:.2f}" for key, value in scores.items()) + rho, flush=True
            )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "mlruns/classifiers"))
