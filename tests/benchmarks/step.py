"""Time one training step: ours, one with per-sample gradients, and the floor that its arithmetic sets.

    python tests/benchmarks/step.py [--threads N] [--steps N] [--json FILE]

The three are timed in turn, round by round, so that a noisy machine disturbs them alike; medians and ratios are printed.
The floor counts every matrix product and convolution of our step (torch's FLOP counter) and divides by the rate of a large
matrix product, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gbc import classifiers, losses, trainer
from gbc.classifiers import Classifier, normalising_by
from gbc.config import TrialConfig
from gbc.subject import Pass
from gbc.trainer import Trainer

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"classifier": {"hidden": 512}, "width": 256, "channels": 32, "bn_weight": 10.0, "ce_weight": 0.03},
    "paper": {"classifier": {"hidden": 1000}, "width": 512, "channels": 64},
}


class PerSamplePass(Pass):
    """The same numbers from one gradient a sample, ∇ Σ_c μ_ic (Φ_{y_i} − Φ_c), and then their mean."""

    @property
    def pull(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        subject = self.subject
        names = [name for name, _ in subject.phi.named_parameters()]

        def one(parameters: tuple[Tensor, ...], image: Tensor, label: Tensor, multipliers: Tensor) -> Tensor:
            named = dict(zip(names, parameters, strict=True))
            logits = torch.func.functional_call(subject.phi, named, image[None])
            return losses.lagrangian(logits, label[None], multipliers[None])

        with normalising_by(subject.phi, "eval"):
            each = torch.func.vmap(torch.func.grad(one), (None, 0, 0, 0))
            gradients = each(tuple(subject.zeta), self.images, self.labels, self.multipliers)
        return tuple(gradient.mean(dim=0) for gradient in gradients)


def step_per_sample(run: Trainer) -> None:
    """One step of `run` with per-sample gradients in the stationarity loss."""
    ours, trainer.Pass = trainer.Pass, PerSamplePass  # type: ignore[misc]
    try:
        run.step()
    finally:
        trainer.Pass = ours  # type: ignore[misc]


def trainer_for(size: str, batch: int) -> Trainer:
    """A trainer on an untrained classifier: the time of a step does not depend on the weights."""
    # Per-sample gradients do not exist under batch statistics, so both kinds normalise by the stored ones.
    settings = TrialConfig.parse({**SIZES[size], "batch_size": batch, "bn_mode": "eval"}, size)
    phi = classifiers.build(settings.classifier, (1, 28, 28), 10)
    return Trainer(settings, [Classifier(phi, tuple("0123456789"), (1, 28, 28), 500)])


def check_equal(size: str) -> float:
    """Relative difference of the two ways to the same pull; guards the comparison."""
    run = trainer_for(size, 16)
    batch = run._sample()
    one, many = (kind(run.subjects[0], run.multipliers, batch.images, batch.labels).pull for kind in (Pass, PerSamplePass))
    return losses.relative_residual(one, many).item()


def matrix_rate(device: torch.device) -> Callable[[], float]:
    """A function that times one large matrix product, in FLOP/s."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)

    def measure() -> float:
        began = clock(device)
        torch.mm(a, b)
        return 2 * size**3 / (clock(device) - began)

    return measure


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_a_step(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Mean over `steps` steps."""
    began = clock(device)
    for _ in range(steps):
        step()
    return (clock(device) - began) / steps


def flops(run: Trainer) -> int:
    """Of one step, forward and both backward passes; element-wise work is not counted."""
    with FlopCounterMode(display=False) as counter:
        run.step()
    return counter.get_total_flops()


def main() -> None:
    """Print a table; write JSON when asked."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--steps", type=int, default=5, help="steps of ours in a round")
    cli.add_argument("--json", type=Path)
    arguments = cli.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = []
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} thread(s), bn_mode eval")
    print(f"medians of {arguments.rounds} rounds")
    titles = ("batch", "ours ms", "per-sample ms", "floor ms", "ours/floor", "per-sample/ours", "GFLOP")
    print(f"{'size':8}" + "".join(f"{title:>16}" for title in titles))
    for size, batch in (("quick", 128), ("quick", 256), ("paper", 128)):
        difference = check_equal(size)
        assert difference < 1e-4, f"the two steps differ by {difference:.1e}"  # float32 sums in another order
        ours, naive = trainer_for(size, batch), trainer_for(size, batch)
        rate = matrix_rate(ours.device)
        count = flops(ours)
        ours.step(), step_per_sample(naive), rate()
        found: dict[str, list[float]] = {"ours": [], "per_sample": [], "floor": []}
        for _ in range(arguments.rounds):
            found["ours"].append(seconds_a_step(ours.step, arguments.steps, ours.device))
            found["per_sample"].append(seconds_a_step(partial(step_per_sample, naive), 1, naive.device))
            found["floor"].append(count / rate())
        pairs = zip(found["ours"], found["per_sample"], found["floor"], strict=True)
        ratios = [(mine / floor, theirs / mine) for mine, theirs, floor in pairs]
        row = {name: statistics.median(values) for name, values in found.items()}
        row |= {
            "ours_over_floor": statistics.median(r for r, _ in ratios),
            "per_sample_over_ours": statistics.median(r for _, r in ratios),
        }
        rows.append({"size": size, "batch": batch, "gflop": count / 1e9, **row})
        times = "".join(f"{row[name] * 1e3:16.1f}" for name in found)
        ratio = "".join(f"{row[name]:16.1f}" for name in ("ours_over_floor", "per_sample_over_ours"))
        print(f"{size:8}{batch:16}{times}{ratio}{count / 1e9:16.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
