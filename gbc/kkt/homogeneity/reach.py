"""The reach of Λ in a network: the tensors that may have λ > 0, and the layer after which all others are 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.kkt.homogeneity.structure import structural
from gbc.kkt.homogeneity.system import Degrees, System


@dataclass(frozen=True)
class Reach:
    """The left-hand side of Eq. (5) under one policy, and why it is no larger under any other."""

    policy: str
    bn_mode: str
    tensors: tuple[str, ...]
    """Tensors of the largest degree, which Λ̃ keeps."""
    total: int
    """Number of all tensors."""
    possible: tuple[str, ...] | None
    """Tensors that may have λ > 0 under some policy; None if there is no rule for a layer, so that it is not known."""
    limited_by: str | None = None
    """The last layer that forces λ = 0 on tensors before it, or for which there is no rule; None if no layer does."""
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the sentences."""
        return {**asdict(self), "sentence": self.sentence()}

    def sentence(self) -> str:
        """The policy, the layer that limits it, and what this means."""
        kept = f"{_listed(self.tensors)} ({len(self.tensors)} of {self.total} tensors)"
        text = f"Λ by lambda_policy {self.policy}, bn_mode {self.bn_mode}: stationarity has a target for {kept}"
        if self.limited_by is None:
            return f"{text}. No layer limits Λ: other policies give others a target"
        limit = f"{text}. {self.limited_by} limits Λ: {self.why}"
        if self.possible is None:
            return f"{limit}. So only last_layer is known to hold, and the KKT losses learn from the last layer alone"
        if set(self.possible) <= set(self.tensors):
            return f"{limit}. So λ is 0 for all others under every policy, and the KKT losses learn from the last layer alone"
        return f"{limit}. So λ is 0 under every policy for {self.total - len(self.possible)} tensors"


def reach(module: nn.Module, policy: str, mode: str, degrees: Degrees, example: Tensor) -> Reach:
    """The reach of the λ of `policy`; `mode` is the BatchNorm mode, `example` a batch of inputs [M, ...] for tracing."""
    largest = max(degrees.values())
    kept = tuple(name for name, degree in degrees.items() if degree == largest)
    total = len(degrees)
    try:
        system = structural(module, mode, example)
        possible = system.can_be_positive()
    except NotQuasiHomogeneous as fault:
        return Reach(policy, mode, kept, total, None, fault.layer, fault.reason)
    except BadInput as fault:
        return Reach(policy, mode, kept, total, None, type(module).__name__, str(fault))
    shapes = dict(module.named_parameters())
    blocked = [name for name in system.names if name not in possible and shapes[name].ndim > 1]
    layer, reason = _limit(system, blocked) if blocked else (None, "")
    return Reach(policy, mode, kept, total, possible, layer, reason)


def _limit(system: System, blocked: Sequence[str]) -> tuple[str, str]:
    """The layer that forces λ = 0 on the last of the `blocked` tensors, and its reason."""
    index = system.names.index(blocked[-1])
    for equation in system.equations:
        # With λ ≥ 0, a sum of positive multiples of λ that is 0 forces each of them to be 0.
        if equation.value == 0 and equation.form[index] and ((equation.form >= 0).all() or (equation.form <= 0).all()):
            return equation.layer, equation.reason
    positive: Mapping[str, float] = {blocked[-1]: 1.0}
    try:
        system.with_fixed(positive).solve()
    except NotQuasiHomogeneous as fault:
        return fault.layer, fault.reason
    raise AssertionError(f"λ of {blocked[-1]} can be positive")


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
