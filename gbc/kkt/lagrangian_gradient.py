"""The right-hand side of Eq. (4) as a linear map of the multipliers, and the multipliers that minimise its residual."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor, nn

from gbc import losses
from gbc.classifiers.architectures import normalising_by, two_logits

Vector = NDArray[np.float64]

# L-BFGS stops when ρ²/2 falls by less than this in `_WINDOW` steps: ρ is then exact to two digits, mostly to three.
_TOLERANCE: Final = 1e-5
_WINDOW: Final = 4
_STEPS: Final = 300
_MEMORY: Final = 20


class MarginGradient:
    """μ [M, C] ↦ ∇_ζ S [P] at fixed samples and ζ, with its transpose.

    The network runs once: the map and its transpose reuse the graphs of that pass, and no matrix is formed.
    """

    def __init__(self, module: nn.Module, images: Tensor, labels: Tensor, mode: str) -> None:
        """`images` [M, ...] and `labels` [M]; `mode` is the BatchNorm mode, `train` or `eval`."""
        self.labels = labels
        self.parameters = {name: parameter.detach().requires_grad_() for name, parameter in module.named_parameters()}
        with normalising_by(module, mode):
            self.logits = two_logits(torch.func.functional_call(module, self.parameters, (images,)))
        # The pull is linear in μ, so its derivative by μ is the map itself; the reverse pass gives the transpose.
        self._multipliers = torch.zeros_like(self.logits, requires_grad=True)
        scalar = losses.lagrangian(self.logits, labels, self._multipliers)
        self._pulled = torch.autograd.grad(scalar, self._values, create_graph=True, materialize_grads=True)

    @property
    def _values(self) -> list[Tensor]:
        return list(self.parameters.values())

    def __call__(self, multipliers: Tensor) -> Tensor:
        """∇_ζ S, [P], in the order of `module.parameters()`."""
        weights = -multipliers / len(multipliers)  # ∂S/∂Φ, [M, C]
        weights = weights.scatter_add(1, self.labels[:, None], -weights.sum(dim=1, keepdim=True))
        pulled = torch.autograd.grad(self.logits, self._values, weights, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in pulled])

    def transposed(self, direction: Tensor) -> Tensor:
        """⟨∂pull/∂μ_ic, direction⟩ for a direction [P]; [M, C]."""
        parts = [part.view_as(value) for part, value in zip(self.split(direction).values(), self._values, strict=True)]
        # Φ need not depend on every tensor.
        reached = [(pulled, part) for pulled, part in zip(self._pulled, parts, strict=True) if pulled.requires_grad]
        pulled, parts = map(list, zip(*reached, strict=True))
        (gradient,) = torch.autograd.grad(pulled, self._multipliers, parts, retain_graph=True)
        return gradient

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The parts of a flat vector [P] by parameter tensor, each part flat."""
        return dict(zip(self.parameters, flat.split([value.numel() for value in self._values]), strict=True))


def best_multipliers(pull: MarginGradient, target: Tensor, tolerance: float = _TOLERANCE) -> tuple[Tensor, Tensor]:
    """(μ ≥ 0 [M, C] that minimises ‖target − pull(μ)‖, that pull [P]): non-negative least squares.

    L-BFGS-B runs until a few steps lower ρ²/2 by less than `tolerance`. The problem is convex: the least residual is unique.
    """
    shape, size = pull.logits.shape, target @ target
    uphill = pull.transposed(target).clamp_min(0)
    pulled = pull(uphill)
    if not pulled.any():  # every multiplier above 0 increases the residual: 0 is the best
        return torch.zeros_like(uphill), torch.zeros_like(target)
    # The best step along the first gradient. In units of its length the problem has a suitable scale for L-BFGS.
    first = uphill * (target @ pulled / (pulled @ pulled))
    unit = first.norm()

    def half_squared(values: Vector) -> tuple[float, Vector]:
        error = pull(torch.from_numpy(values).to(target).view(shape) * unit) - target
        gradient = pull.transposed(error).flatten() * unit / size
        return (error @ error / size / 2).item(), gradient.double().numpy()

    history: list[float] = []

    def stop_when_flat(intermediate_result: Any) -> None:
        history.append(intermediate_result.fun)
        if len(history) > _WINDOW and history[-1 - _WINDOW] - history[-1] < tolerance:
            raise StopIteration

    solution = minimize(
        half_squared, (first / unit).flatten().double().numpy(), jac=True, method="L-BFGS-B", bounds=Bounds(lb=0.0),
        callback=stop_when_flat, options={"maxcor": _MEMORY, "maxiter": _STEPS, "ftol": 0.0, "gtol": 0.0},
    )  # fmt: skip
    multipliers = torch.from_numpy(solution.x).to(target).view(shape) * unit
    return multipliers, pull(multipliers)
