"""Time packs of K trials beside one trial alone, on one device.

    python tests/benchmarks/packing.py [--device D] [--threads N] [--members 1 2 4 8 16] [--json FILE]

Trainer and packs are timed in turn, round by round, so that a noisy machine disturbs them alike. The ratio is that of trials an
hour: above 1, a pack of K is worth more than K trials one after the other. The settings are those of the default sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gbc import classifiers
from gbc.classifiers import Classifier
from gbc.config import TrialConfig
from gbc.pack import Pack
from gbc.runtime import pick_device
from gbc.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "classifier": {"hidden": 512}, "width": 256, "channels": 32, "steps": 10**6, "report_every": 10**6,
    "lr_schedule": "cosine", "tv_weight": 0.3, "beta": 1e-3, "bn_weight": 10.0, "ce_weight": 0.03,
}  # fmt: skip
TRIAL = 1200
"""Steps of a trial of the default sweep."""


def settings(batch: int, device: str, seed: int = 0) -> TrialConfig:
    """Of one trial; those of a pack differ in more than the seed, at no cost."""
    return TrialConfig.parse(
        {**SETTINGS, "batch_size": batch, "device": device, "seed": seed, "lr": 1e-3 + 1e-4 * seed}, "here"
    )


def untrained() -> list[Classifier]:
    """A classifier: the time of a step does not depend on its weights."""
    phi = classifiers.build(settings(2, "cpu").classifier, (1, 28, 28), 10)
    return [Classifier(phi, tuple("0123456789"), (1, 28, 28), 500)]


def seconds_a_step(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Mean over `steps` steps; the device has done what it was given before and after."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    began = clock()
    for _ in range(steps):
        step()
    return (clock() - began) / steps


def rows(
    *, device: str = "auto", batch: int = 256, members: Sequence[int] = (1, 2, 4, 8, 16), rounds: int = 5, steps: int = 10
) -> list[dict[str, Any]]:
    """A row for each number of members: medians over rounds of ratios and seconds, the trainer alone first (0 members)."""
    place = pick_device(device)
    runs: dict[int, Callable[[], None]] = {0: Trainer(settings(batch, device), untrained()).step}
    for count in members:
        pack = Pack(untrained())
        for seed in range(count):
            pack.add(settings(batch, device, seed))
        runs[count] = pack.step
    for step in runs.values():
        seconds_a_step(step, 2, place)
    found: dict[int, list[float]] = {count: [] for count in runs}
    for _ in range(rounds):
        for count, step in runs.items():
            # As many steps of a trial in each turn, and not less than one of the pack.
            found[count].append(seconds_a_step(step, max(1, steps // max(1, count)) if place.type == "cpu" else steps, place))
    return [
        {
            "members": count,
            "ratio": statistics.median(
                max(1, count) * alone / mine for alone, mine in zip(found[0], found[count], strict=True)
            ),
            "step_ms": 1e3 * statistics.median(found[count]),
            "trials_an_hour": max(1, count) * 3600 / TRIAL / statistics.median(found[count]),
            "batch": batch,
            "device": str(place),
        }
        for count in runs
    ]


def main() -> None:
    """Print a table; write JSON when asked."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--device", default="auto")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--batch", type=int, default=256)
    cli.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--steps", type=int, default=10, help="steps in a turn")
    cli.add_argument("--json", type=Path)
    arguments = cli.parse_args()
    torch.set_num_threads(arguments.threads)

    print(
        f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} thread(s), load average {os.getloadavg()[0]:.1f}"
    )
    found = rows(
        device=arguments.device,
        batch=arguments.batch,
        members=arguments.members,
        rounds=arguments.rounds,
        steps=arguments.steps,
    )
    load = os.getloadavg()[0]
    print(f"batch {arguments.batch} on {found[0]['device']}, medians of {arguments.rounds} rounds; load average {load:.1f}")
    print(f"{'':12}{'ratio':>8}{'step ms':>10}{'trials/h':>10}")
    for row in found:
        name = f"pack of {row['members']}" if row["members"] else "alone"
        print(f"{name:12}{row['ratio']:8.2f}{row['step_ms']:10.1f}{row['trials_an_hour']:10.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
