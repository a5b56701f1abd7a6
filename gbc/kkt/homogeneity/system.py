"""The linear system that Λ solves, and the points of its solution set, a polytope in λ ≥ 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.settings import suggest

Degrees = dict[str, float]
"""λ for each named parameter tensor."""

Array = NDArray[np.float64]

# Singular values of independent equations are above 1e-5 of the largest one, those of float64 rounding below 1e-10.
_RANK_TOLERANCE: Final = 1e-8
_POSITIVE: Final = 1e-6  # degrees are simple fractions


@dataclass(frozen=True)
class Equation:
    """⟨form, λ⟩ = value, with the layer that requires it and the reason."""

    form: Array
    """Coefficients [T], one for each unknown."""
    value: float
    layer: str
    reason: str


@dataclass(frozen=True)
class System:
    """Aλ = b with λ ≥ 0: the degrees λ that satisfy Φ(x; e^{αΛ}ζ) = e^α Φ(x; ζ)."""

    names: tuple[str, ...]
    """The T unknowns: parameter tensors, or single scalars as `0.weight[3,1]`, in the order of `module.parameters()`."""
    equations: tuple[Equation, ...]

    @cached_property
    def matrix(self) -> Array:
        """A, [E, T]."""
        return np.array([equation.form for equation in self.equations]).reshape(-1, len(self.names))

    @cached_property
    def values(self) -> Array:
        """b, [E]."""
        return np.array([equation.value for equation in self.equations])

    @cached_property
    def _decomposed(self) -> tuple[Array, Array, Array, int]:
        """(b, A) with orthonormal rows, of which the first `rank` are independent equations; singular values; rank."""
        u, singular, rows = np.linalg.svd(self.matrix)
        rank = int((singular > _RANK_TOLERANCE * singular.max(initial=0.0)).sum())
        return u[:, :rank].T @ self.values / singular[:rank], rows, singular, rank

    @property
    def rank(self) -> int:
        """Number of independent equations."""
        return self._decomposed[3]

    @property
    def nullity(self) -> int:
        """Dimension of the solution set of the equations, without λ ≥ 0: the directions in which Λ is free."""
        return len(self.names) - self.rank

    @property
    def null_space(self) -> Array:
        """An orthonormal basis of these directions, [nullity, T]."""
        return self._decomposed[1][self.rank :]

    @property
    def singular_values(self) -> Array:
        """Singular values of A, descending, [min(E, T)]. A large gap after the first `rank` of them confirms the rank."""
        return self._decomposed[2]

    def residual(self, degrees: Mapping[str, float]) -> float:
        """The greatest |Aλ − b| over the greatest |b|: 0 for an exact solution."""
        left_side = self.matrix @ np.array([degrees[name] for name in self.names])
        return float(np.abs(left_side - self.values).max() / np.abs(self.values).max())

    def with_fixed(self, degrees: Mapping[str, float]) -> System:
        """This system with some λ fixed.

        Raises:
            BadInput: a name that is not an unknown of the system, or a λ below 0.
        """
        fixed = []
        for name, value in degrees.items():
            if name not in self.names:
                raise BadInput(f"λ of {name!r}: the classifier has no such tensor; {suggest(name, self.names)}")
            if not 0 <= value < float("inf"):
                raise BadInput(f"λ of {name!r} is {value:g}; degrees are finite and not negative")
            fixed.append(Equation(unit_form(self.names, name), value, name, f"λ = {value:.4g} is given"))
        return System(self.names, (*self.equations, *fixed))

    def solve(self) -> Degrees:
        """The solution of least ‖λ‖ with λ ≥ 0, one λ for each name. It is unique.

        Raises:
            NotQuasiHomogeneous: there is none; the error names a layer whose equation cannot be met.
        """
        from scipy.linalg import null_space  # slow to import, and most workers need no linear program
        from scipy.optimize import nnls

        projected, rows, _, rank = self._decomposed
        possible = self._may_be_positive()
        matrix = rows[:rank, possible]
        # Least-distance programming (Lawson & Hanson 1974, chapter 23): λ = λ₀ + Nz with min ‖z‖ subject to Nz ≥ −λ₀.
        least = np.linalg.lstsq(matrix, projected, rcond=_RANK_TOLERANCE)[0]
        directions = null_space(matrix, rcond=_RANK_TOLERANCE)
        stacked = np.concatenate([directions.T, -least[None]])
        right_side = np.append(np.zeros(directions.shape[1]), 1.0)
        gap = stacked @ nnls(stacked, right_side)[0] - right_side
        rough = least - directions @ (gap[:-1] / gap[-1])
        # This tells which λ are positive; among these the least norm has a closed form, exact to rounding.
        positive = np.flatnonzero(possible)[rough > _POSITIVE]
        solution = np.zeros(len(self.names))
        solution[positive] = np.linalg.lstsq(rows[:rank, positive], projected, rcond=_RANK_TOLERANCE)[0]
        if not (self._consistent(solution) and solution.min() > -_RANK_TOLERANCE):
            raise self._conflict_error()
        # Λ̃ of Eq. (4) compares degrees for equality, so equal ones must not differ by rounding.
        return dict(zip(self.names, solution.round(12).clip(min=0).tolist(), strict=True))

    def can_be_positive(self) -> tuple[str, ...]:
        """The names whose λ is above 0 somewhere on the solution set.

        Raises:
            NotQuasiHomogeneous: the set is empty.
        """
        return tuple(name for name, possible in zip(self.names, self._may_be_positive(), strict=True) if possible)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value (perhaps infinite) that each λ takes on the solution set.

        Raises:
            NotQuasiHomogeneous: the set is empty.
        """
        from scipy.optimize import linprog

        self.solve()
        projected, rows, _, rank = self._decomposed
        limits = {}
        for name in self.names:
            low, high = (
                linprog(sign * unit_form(self.names, name), A_eq=rows[:rank], b_eq=projected, bounds=(0, None))
                for sign in (1.0, -1.0)
            )
            limits[name] = (float(low.fun), 0.0 - float(high.fun) if high.status == 0 else float("inf"))
        return limits

    def _may_be_positive(self) -> NDArray[np.bool_]:
        """True for each λ that is above 0 somewhere on the solution set, [T]. NNLS needs a set with an interior in these.

        One linear program: maximise Σ min(λ_t, 1) over Aλ = κb, κ ≥ 1. With a large κ, every λ that can be positive reaches 1.
        """
        from scipy.optimize import linprog

        projected, rows, _, rank = self._decomposed
        count = len(self.names)
        equalities = np.hstack([rows[:rank], np.zeros((rank, count)), -projected[:, None]])  # unknowns λ, s, κ
        below = np.hstack([-np.eye(count), np.eye(count), np.zeros((count, 1))])  # s ≤ λ
        optimum = linprog(
            np.concatenate([np.zeros(count), -np.ones(count), [0.0]]),
            A_ub=below, b_ub=np.zeros(count), A_eq=equalities, b_eq=np.zeros(rank),
            bounds=[(0, None)] * count + [(0, 1)] * count + [(1, None)],
        )  # fmt: skip
        if optimum.status != 0 or not self._consistent(rows[:rank].T @ projected):
            raise self._conflict_error()
        reached: Array = optimum.x[count : 2 * count]
        return reached > 1 / 2

    def _consistent(self, solution: Array) -> bool:
        scale = max(1.0, float(np.abs(self.values).max(initial=0.0)))
        return bool(np.abs(self.matrix @ solution - self.values).max(initial=0.0) < _RANK_TOLERANCE * scale)

    def _conflict_error(self) -> NotQuasiHomogeneous:
        """The error for the first layer of an irreducible conflict: equations without a solution, all of them needed for it."""
        conflict = list(self.equations)
        # From the end, so that equations of the whole network are removed first and the earliest layer remains.
        for equation in reversed(self.equations):
            fewer = [other for other in conflict if other is not equation]
            if not _feasible(fewer, len(self.names)):
                conflict = fewer
        first, *others = conflict or self.equations
        against = "; ".join(f"{other.layer}: {other.reason}" for other in others[-2:])
        return NotQuasiHomogeneous(first.layer, first.reason + (f" (in conflict with {against})" if against else ""))


def unit_form(names: tuple[str, ...], name: str) -> Array:
    """The form whose value is the λ of `name`, [T]."""
    return np.array([float(other == name) for other in names])


def _feasible(equations: list[Equation], unknowns: int) -> bool:
    from scipy.optimize import linprog

    if not equations:
        return True
    matrix = np.array([equation.form for equation in equations])
    values = [equation.value for equation in equations]
    return bool(linprog(np.zeros(unknowns), A_eq=matrix, b_eq=values, bounds=(0, None)).status == 0)
