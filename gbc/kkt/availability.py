"""The losses that a classifier can have, and the part of it that Λ reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import BATCH_NORMS, Classifier
from gbc.config import LOSS_WEIGHTS, TrialConfig
from gbc.errors import NotQuasiHomogeneous
from gbc.kkt import homogeneity

# A wrong Λ has errors of tens of per cent; float64 rounding through three layers stays below 1e-9.
_LAMBDA_TOLERANCE: Final = 1e-8
_DEFAULT_POLICY: Final = TrialConfig.model_fields["lambda_policy"].default


@dataclass(frozen=True)
class Availability:
    """λ of one classifier, and the losses that it cannot have, under the settings of a trial."""

    degrees: homogeneity.Degrees
    """λ by tensor; all 0 where there is no Λ."""
    off: dict[str, str]
    """Losses that it cannot have, each with the reason. Their weight is 0 whatever the settings say."""


def probe(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Random images [32, *shape], with which a classifier is examined."""
    return torch.rand(32, *shape, generator=torch.Generator().manual_seed(0)).to(device)


def availability(phi: nn.Module, decay: float, config: TrialConfig, images: Tensor) -> Availability:
    """Examine a classifier, which was trained with weight decay `decay`, with the `probe` images.

    Every preset uses Λ by the default policy and BatchNorm statistics, so these are off where they cannot be had. A policy
    that the settings ask for is an error instead.

    Raises:
        BadInput, NotQuasiHomogeneous: the network has no Λ by the policy, which is not the default one.
    """
    off: dict[str, str] = {}
    if not any(isinstance(layer, BATCH_NORMS) and layer.running_mean is not None for layer in phi.modules()):
        off["bn"] = "no layer is a BatchNorm with stored statistics"
    if not decay:
        off["closed"] = "classifier.weight_decay is 0, and so is wd·ζ"
    try:
        return Availability(_degrees(phi, config, images), off)
    except NotQuasiHomogeneous as fault:
        if config.lambda_policy != _DEFAULT_POLICY:
            raise
        off |= dict.fromkeys(("stationarity", "duality"), f"there is no Λ: {fault.layer}: {fault.reason}")
        return Availability({name: 0.0 for name, _ in phi.named_parameters()}, off)


def _degrees(phi: nn.Module, config: TrialConfig, images: Tensor) -> homogeneity.Degrees:
    degrees = homogeneity.POLICIES[config.lambda_policy](phi, config.bn_mode, config.lambda_values or {}, images)
    # With the ideal normalisation: a λ that relies on scale invariance is right, although eps makes it inexact.
    error = homogeneity.relative_error(phi, degrees, images, mode=config.bn_mode, eps=homogeneity.EPS)
    if not error < _LAMBDA_TOLERANCE:
        raise NotQuasiHomogeneous(config.lambda_policy, f"Φ(x; e^(αΛ)ζ) is off by {error:.1e} (relative)")
    return degrees


def findings(classifier: Classifier, decay: float, config: TrialConfig) -> dict[str, Any]:
    """The `availability` of a classifier for people and records, as plain data: `lambda` and `off`; absent where empty.

    `decay` is the weight decay that it was trained with. Raises: as `availability`.
    """
    images = probe(classifier.shape, next(classifier.module.parameters()).device)
    available = availability(classifier.module, decay, config, images)
    result: dict[str, Any] = {}
    if "stationarity" not in available.off:
        reach = homogeneity.reach(classifier.module, config.lambda_policy, config.bn_mode, available.degrees, images)
        result["lambda"] = reach.to_json()
    if available.off:
        result["off"] = {LOSS_WEIGHTS[loss]: reason for loss, reason in available.off.items()}
    return result
