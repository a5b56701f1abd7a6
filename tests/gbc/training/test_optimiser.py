from __future__ import annotations

import subprocess
import sys

import torch

from gbc.training.optimiser import Adam


def test_the_numbers_are_torchs() -> None:
    """Bit for bit, through a saved state, with groups of different settings."""

    def run(kind: type[torch.optim.Adam]) -> torch.Tensor:
        torch.manual_seed(0)
        first, second = (torch.randn(7, requires_grad=True) for _ in range(2))
        groups = [{"params": [first]}, {"params": [second], "weight_decay": 0.0}]

        def fresh() -> torch.optim.Adam:
            return kind(groups, lr=1e-2, weight_decay=0.1, fused=True)

        optimiser = fresh()
        for step in range(6):
            if step == 3:
                saved = optimiser.state_dict()
                optimiser = fresh()
                optimiser.load_state_dict(saved)
            optimiser.zero_grad()
            (first.sin() * second).square().sum().backward()
            optimiser.step()
        return torch.cat([first, second]).detach()

    assert torch.equal(run(Adam), run(torch.optim.Adam))


def test_training_does_not_import_the_compiler() -> None:
    script = """
import sys, torch
from gbc.training.optimiser import Adam
weight = torch.ones(3, requires_grad=True)
optimiser = Adam([weight], fused=True)
optimiser.zero_grad()
weight.sum().backward()
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
