"""The share of the KKT conditions in the gradient that moves the generator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gbc.kkt.weighted_losses import LOSSES, Term


def gradient_shares(batches: Iterable[tuple[Tensor, Sequence[Term]]]) -> dict[str, float]:
    """`kkt/active`, ‖Σ_{conditions} ∇_x w·loss‖ / Σ_{losses} ‖∇_x w·loss‖, and the share of each condition by itself.

    `batches` has for each task images x that require a gradient, and their weighted losses. Gradients with respect to x are
    used in place of those with respect to θ: every loss depends on θ through x alone, and no pass through the generator is
    needed. Shares are in [0, 1]; they are 0 if no condition has weight, or if the gradients are 0, as for multipliers of 0.
    """
    squares: dict[str, Tensor] = {}
    squared_sum = torch.zeros(())
    for images, terms in batches:
        of_conditions = torch.zeros_like(images)
        for name in dict.fromkeys(term.name for term in terms):
            value = torch.stack([term.weight * term.value for term in terms if term.name == name]).sum()
            (gradient,) = torch.autograd.grad(value, images, retain_graph=True, materialize_grads=True)
            squares[name] = squares.get(name, 0) + gradient.square().sum()
            if LOSSES[name].kkt:
                of_conditions += gradient
        squared_sum = squared_sum.to(images.device) + of_conditions.square().sum()
    norms = {name: square.sqrt().item() for name, square in squares.items()}
    whole = sum(norms.values())
    shares = {f"kkt/active_{name}": norms[name] / whole if whole else 0.0 for name in norms if LOSSES[name].kkt}
    return {"kkt/active": squared_sum.sqrt().item() / whole if whole else 0.0, **shares}
