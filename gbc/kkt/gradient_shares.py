"""The share of the KKT conditions in the gradient that moves the generator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gbc.kkt.objectives import LOSSES, Term


def gradient_shares(batches: Iterable[tuple[Tensor, Sequence[Term]]]) -> dict[str, float]:
    """`kkt/active`, ‖Σ_{conditions} ∇_x w·loss‖ / Σ_{losses} ‖∇_x w·loss‖, and for each condition the share of it alone.

    A batch of each task: images x that require a gradient, and the weighted losses of them. Gradients by the images stand for
    those by θ, which every loss reaches through the same images, and cost no pass through the generator. The shares are
    in [0, 1], and 0 where no condition has weight or nothing flows, as with multipliers that are all 0.
    """
    squares: dict[str, Tensor] = {}
    together = torch.zeros(())
    for images, terms in batches:
        ours = torch.zeros_like(images)
        for name in dict.fromkeys(term.name for term in terms):
            value = torch.stack([term.weight * term.value for term in terms if term.name == name]).sum()
            (gradient,) = torch.autograd.grad(value, images, retain_graph=True, materialize_grads=True)
            squares[name] = squares.get(name, 0) + gradient.square().sum()
            if LOSSES[name].kkt:
                ours += gradient
        together = together.to(images.device) + ours.square().sum()
    norms = {name: square.sqrt().item() for name, square in squares.items()}
    whole = sum(norms.values())
    shares = {f"kkt/active_{name}": norms[name] / whole if whole else 0.0 for name in norms if LOSSES[name].kkt}
    return {"kkt/active": together.sqrt().item() / whole if whole else 0.0, **shares}
