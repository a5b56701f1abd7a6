"""Λ: the degrees of quasi-homogeneity, Φ(x; e^{αΛ}ζ) = e^α Φ(x; ζ) (section 3).

Λ is not unique: the degrees that satisfy the definition form a polytope. `structural` finds it by rules over the layers,
`estimated` by derivatives (Eq. 10), both as a `System`; a *policy* picks one point of it; `relative_error` checks that point.
"""

from __future__ import annotations

from gbc.kkt.homogeneity.check import EPS, Curves, curves, flat_degrees, relative_error
from gbc.kkt.homogeneity.estimate import diagonal, estimated, estimated_scalars
from gbc.kkt.homogeneity.policies import AUTOMATIC, POLICIES, Policy, given, last_layer, min_norm, uniform
from gbc.kkt.homogeneity.reach import Reach, reach
from gbc.kkt.homogeneity.structure import exported, structural, traced
from gbc.kkt.homogeneity.system import Degrees, Equation, System

__all__ = [
    "AUTOMATIC",
    "EPS",
    "POLICIES",
    "Curves",
    "Degrees",
    "Equation",
    "Policy",
    "Reach",
    "System",
    "curves",
    "diagonal",
    "estimated",
    "estimated_scalars",
    "exported",
    "flat_degrees",
    "given",
    "last_layer",
    "min_norm",
    "reach",
    "relative_error",
    "structural",
    "traced",
    "uniform",
]
