"""Measures of how far a classifier has converged, on which the KKT conditions depend (section 3 of docs/method.md)."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifiers.architectures import BATCH_NORMS, normalising_by
from gbc.errors import BadInput

Regime = dict[str, Any]

AT_ONCE: Final = 10_000
"""Images in one pass at most. The regime of a larger set is measured on evenly chosen ones."""


def diagnose(module: nn.Module, images: Tensor, labels: Tensor, weight_decay: float, loss: str = "cross_entropy") -> Regime:
    """The regime of Φ on its training set, of which at most `AT_ONCE` images are used, as plain data.

    `loss`, `accuracy`, quantiles of the `margins`; for each tensor the `residuals` and the `cosines` of wd·ζ and −∇L;
    for each hidden layer the `imbalance`, which needs no data. `loss` names an entry of `losses.CLASSIFICATION`.
    """
    evenly_chosen = slice(None, None, math.ceil(len(images) / AT_ONCE))  # they are in the order of their labels
    images, labels = images[evenly_chosen], labels[evenly_chosen]
    with torch.no_grad(), normalising_by(module, "train"):
        logits = module(images)
    margin = losses.margins(logits, labels)
    quantiles = torch.quantile(margin, torch.tensor([0.0, 0.05, 0.5, 0.95]))
    return {
        "loss": losses.CLASSIFICATION[loss](logits, labels).item(),
        "accuracy": (margin > 0).float().mean().item(),
        "margins": dict(zip(("min", "q05", "q50", "q95"), quantiles.tolist(), strict=True)),
        "residuals": residuals(module, images, labels, weight_decay, loss),
        "cosines": cosines(module, images, labels, loss),
        "imbalance": imbalance(module),
    }


@torch.no_grad()
def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of `images` that Φ classifies as `labels` say; BatchNorm by its stored statistics."""
    with normalising_by(module, "eval"):
        margin = torch.cat(
            [losses.margins(module(x), y) for x, y in zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True)]
        )
    return (margin > 0).float().mean().item()


def residuals(
    module: nn.Module, images: Tensor, labels: Tensor, weight_decay: float, loss: str = "cross_entropy"
) -> dict[str, float]:
    """Relative stationarity residual of each parameter tensor on the training set.

    ‖wd·ζ + ∇L‖ / ‖wd·ζ‖. For weights that a BatchNorm layer makes scale-invariant it is ‖∇L‖ / ‖wd·ζ‖, because gradient
    descent leads these to ∇ = 0, not to wd·ζ. Biases before BatchNorm have no effect on Φ and are left out.
    """
    invariant, residual_of = before_batch_norm(module, images), {}
    for name, (parameter, gradient) in _gradients(module, images, labels, loss).items():
        layer, _, kind = name.rpartition(".")
        if layer in invariant and kind == "bias":
            continue
        decay = weight_decay * parameter
        residual = gradient if layer in invariant else gradient + decay
        residual_of[name] = (residual.norm() / decay.norm().clamp_min(1e-12)).item()
    return residual_of


def cosines(module: nn.Module, images: Tensor, labels: Tensor, loss: str = "cross_entropy") -> dict[str, float]:
    """Cosine of ζ and −∇L for each parameter tensor: 1 where training has converged, for any weight decay.

    Layers directly before BatchNorm are left out: their condition is ∇L = 0, and 0 has no direction.
    """
    invariant = before_batch_norm(module, images)
    return {
        name: nn.functional.cosine_similarity(parameter.flatten(), -gradient.flatten(), dim=0).item()
        for name, (parameter, gradient) in _gradients(module, images, labels, loss).items()
        if name.rpartition(".")[0] not in invariant
    }


@torch.no_grad()
def imbalance(module: nn.Module) -> dict[str, float]:
    """Median over hidden units of |a − b| / max(a, b), with a = ‖w_in‖² + b_in² and b = ‖w_out‖²; from ζ alone.

    A ReLU unit keeps its function when w_in and b_in are multiplied and w_out divided by the same number, so at a
    stationary point of L + wd/2·‖ζ‖² the two norms are equal: 0 when converged, near 1 when not. Measured only where
    Linear, ReLU, Linear follow each other in an `nn.Sequential`, whose order is known. The keys name the first Linear.
    """
    imbalance_of = {}
    for path, container in module.named_modules():
        if not isinstance(container, nn.Sequential):
            continue
        children = list(container.named_children())
        for (name, before), (_, between), (_, after) in zip(children, children[1:], children[2:], strict=False):
            if isinstance(before, nn.Linear) and isinstance(between, nn.ReLU) and isinstance(after, nn.Linear):
                inward = before.weight.square().sum(dim=1)  # [units]
                if before.bias is not None:
                    inward = inward + before.bias.square()
                outward = after.weight.square().sum(dim=0)
                larger = torch.maximum(inward, outward)
                # Weight decay shrinks both norms of dead units to 0, where their ratio is only rounding.
                alive = larger > 1e-6 * larger.max()
                key = f"{path}.{name}" if path else name
                imbalance_of[key] = ((inward - outward).abs() / larger)[alive].median().item()
    return imbalance_of


def before_batch_norm(module: nn.Module, images: Tensor) -> set[str]:
    """Names of linear and convolutional layers whose output is the input of a BatchNorm layer, found by a forward pass."""
    outputs: list[tuple[str, Tensor]] = []
    names: set[str] = set()
    handles = []

    def remember(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.append((name, output))

    def compare(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        names.update(name for name, output in outputs if output is inputs[0])

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            handles.append(layer.register_forward_hook(remember(name)))
        elif isinstance(layer, BATCH_NORMS):
            handles.append(layer.register_forward_pre_hook(compare))
    try:
        with torch.no_grad(), normalising_by(module, "eval"):
            module(images[:2])
    finally:
        for handle in handles:
            handle.remove()
    return names


def _gradients(module: nn.Module, images: Tensor, labels: Tensor, loss: str) -> dict[str, tuple[Tensor, Tensor]]:
    """(ζ, ∇L) of each parameter tensor, by name."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    with normalising_by(module, "train"):
        value = losses.CLASSIFICATION[loss](module(images), labels)
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    return {name: (p.detach(), g) for name, p, g in zip(names, parameters, gradients, strict=True)}


def margin_of_last_layer(module: nn.Module, weight_decay: float) -> float:
    """The margin of the training samples of a classifier that converged under mean cross-entropy, from its weights alone.

    In the last layer wd·ζ = −∇CE, and Φ is linear in it: wd·‖ζ_L‖² = mean Σ_c p_c (Φ_y − Φ_c). If every sample has margin m
    and k equally probable wrong classes, the right side is k e^(−m) m / (1 + k e^(−m)), which falls with m beyond its peak.
    k is between 1 and C − 1: the result is the mean of the solutions for these two.

    Raises:
        BadInput: no margin beyond the peak satisfies this. The classifier has not converged, or its confidence is low.
    """
    tensors = list(module.parameters())[-2:]
    if [tensor.ndim for tensor in tensors] != [2, 1] or len(tensors[1]) < 2:
        raise BadInput("alpha last_layer: the classifier does not end in a linear layer with a bias for each of its classes")
    weight, bias = tensors
    left_side = weight_decay * (weight.square().sum() + bias.square().sum()).item()
    margins = torch.linspace(0, 30, 30_001)
    solutions = []
    for rivals in (1, len(bias) - 1):
        odds = rivals * torch.exp(-margins)
        right_side = odds * margins / (1 + odds)
        peak = int(right_side.argmax())
        if not right_side[-1] < left_side < right_side[peak]:
            raise BadInput(
                "alpha last_layer: the classifier has not converged, its last layer fits no margin; give it more steps"
            )
        solutions.append(margins[peak:][(right_side[peak:] - left_side).abs().argmin()].item())
    return sum(solutions) / len(solutions)
