"""Numerical estimate of Λ by Eqs. (9) and (10). It uses derivatives instead of rules, so it works for any network.

Let f(s) = Φ(x; e^{s}ζ) with one s for each unknown. Quasi-homogeneity is f(s + αλ) = e^α f(s), so Σ_u λ_u ∂f/∂s_u = f,
which is Eq. (9). It holds at every ζ, so its derivatives are further equations, as in Eq. (10).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import normalising_by
from gbc.kkt.homogeneity.check import EPS, float64_copy
from gbc.kkt.homogeneity.system import Array, Equation, System

_WHY = "its derivatives at random inputs do not satisfy Eq. (10)"


def estimated(module: nn.Module, images: Tensor, *, mode: str, rng: torch.Generator | None = None) -> System:
    """Equations for one λ for each parameter tensor, at images [K, ...] with random values, in float64.

    Eq. (9), Σ_t λ_t ⟨ζ_t, ∇_{ζ_t}Φ_c(x)⟩ = Φ_c(x), gives K·C equations. They do not constrain a tensor that is 0, such as an
    untrained bias. With `rng` there are as many second-derivative equations, Eq. (9) differentiated along one random direction
    in ζ. They constrain such tensors too, and distinguish tensors that the first equations confuse in narrow layers.

    Every equation is necessary, so the null space can be too large, never too small: use enough inputs, of a size that
    switches every unit on and off.

    Layers that normalise by their input's own statistics do so with an eps near 0, see `float64_copy`.
    """
    phi, images = float64_copy(module, EPS, mode), images.detach().cpu().double()
    names = tuple(name for name, _ in phi.named_parameters())
    values = {name: parameter.detach() for name, parameter in phi.named_parameters()}
    along = {name: torch.randn(p.shape, generator=rng).double() if rng else torch.zeros_like(p) for name, p in values.items()}

    s = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    r = torch.zeros((), dtype=torch.float64, requires_grad=True)
    scaled = {name: s[index].exp() * (values[name] + r * along[name]) for index, name in enumerate(names)}
    with normalising_by(phi, mode):
        logits = torch.func.functional_call(phi, scaled, (images,))  # [K, C]
    # Two reverse passes give forward derivatives: Σ u·Φ differentiated by s_t and then by u is ∂Φ/∂s_t for every x and c.
    u = torch.ones_like(logits, requires_grad=True)
    weighted = (u * logits).sum()
    (pulls,) = torch.autograd.grad(weighted, s, create_graph=True)
    blocks = [_rows([_by(pull, u, last=True) for pull in pulls], logits)]
    if rng:
        blocks.append(_rows([_by(_by(pull, r), u, last=True) for pull in pulls], _by(_by(weighted, r), u, last=True)))
    return _system(names, blocks)


def estimated_scalars(module: nn.Module, images: Tensor, *, mode: str) -> System:
    """Equations for one λ for each single parameter, by Eq. (10) as in the paper. For small networks: P² derivatives a logit.

    For every image of [K, ...] and logit c, Σ_j λ_j ζ_j ∂_jΦ_c = Φ_c, and for every parameter i its derivative
    Σ_j λ_j ζ_j ∂_ijΦ_c + λ_i ∂_iΦ_c = ∂_iΦ_c, Eq. (10) multiplied by 1 − λ_i. Unknowns are named `0.weight[3,1]`.
    """
    phi, images = float64_copy(module, EPS, mode), images.detach().cpu().double()
    parameters = dict(phi.named_parameters())
    names = tuple(
        f"{name}[{','.join(map(str, index))}]"
        for name, parameter in parameters.items()
        for index in np.ndindex(parameter.shape)
    )
    zeta = torch.cat([parameter.detach().flatten() for parameter in parameters.values()]).requires_grad_()  # [P]
    pieces = zeta.split([parameter.numel() for parameter in parameters.values()])
    shaped = {name: piece.view_as(p) for piece, (name, p) in zip(pieces, parameters.items(), strict=True)}
    with normalising_by(phi, mode):
        logits = torch.func.functional_call(phi, shaped, (images,))  # [K, C]
    blocks = []
    for logit in logits.flatten():
        gradient = _by(logit, zeta)  # [P]
        hessian = torch.stack([_by(derivative, zeta, last=True) for derivative in gradient])  # [P, P]
        blocks.append(_rows(list(zeta * gradient), logit))
        blocks.append(_rows(list((hessian * zeta + gradient.diag()).T), gradient))
    return _system(names, blocks)


def diagonal(solution: Mapping[str, float]) -> Tensor:
    """The diagonal of Λ, flat [P], from a solution of `estimated_scalars`."""
    return torch.tensor(list(solution.values()), dtype=torch.float64)


def _by(value: Tensor, variable: Tensor, *, last: bool = False) -> Tensor:
    """∂value/∂variable; 0 if `value` does not depend on it. It can be differentiated again unless it is the `last`."""
    if not value.requires_grad:
        return torch.zeros_like(variable)
    (gradient,) = torch.autograd.grad(value, variable, create_graph=not last, retain_graph=True, materialize_grads=True)
    return gradient


def _rows(columns: list[Tensor], values: Tensor) -> Array:
    """The equations Σ_t λ_t columns[t] = values, entry by entry, as [entries, T + 1]."""
    rows: Array = torch.stack([column.flatten() for column in (*columns, values)], dim=1).detach().numpy()
    return rows


def _system(names: tuple[str, ...], blocks: list[Array]) -> System:
    # The triangular factor is equivalent and has at most T + 1 rows; with entries of order 1, tolerances can be absolute.
    rows = np.linalg.qr(np.concatenate(blocks), mode="r")
    rows /= np.abs(rows).max()
    return System(names, tuple(Equation(row[:-1], float(row[-1]), "the network", _WHY) for row in rows))
