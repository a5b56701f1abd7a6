"""Optimisers that minimise a classifier's loss on its training set. Each changes the network in place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import convergence
from gbc.errors import Diverged
from gbc.optimisers import LBFGS, SGD

ProgressCallback = Callable[[int, int, float], None]
"""Called with (step, steps, loss) at intervals. The loss of L-BFGS includes the weight penalty."""

_CHECK_EVERY: Final = 100
_CHUNK: Final = 5  # iterations of L-BFGS between two checks of the residuals
_MOMENTUM: Final = 0.9
_MINI_BATCH: Final = 128


def gradient_descent(
    module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig, progress: ProgressCallback | None
) -> int:
    """Full-batch gradient descent with weight decay on every tensor, as in supplement C.2; returns the steps taken.

    Stops early when every residual is within `tolerance`.

    Raises:
        Diverged: the loss stopped being finite.
    """
    optimiser = SGD(module.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    step = 0
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        loss = losses.CLASSIFICATION[config.loss](module(images), labels)
        loss.backward()
        optimiser.step()
        if step % _CHECK_EVERY == 0 or step == config.steps:
            _tell_progress(loss, step, config.steps, config, progress)
            if config.tolerance and _worst_residual(module, images, labels, config) <= config.tolerance:
                break
    return step


def converge(
    module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig, progress: ProgressCallback | None
) -> int:
    """Minimise L + wd/2·‖ζ‖² to stationarity; returns the steps taken.

    Gradient descent with momentum and cosine decay to 0 for `steps`, then L-BFGS until every residual is within
    `tolerance`, the objective stops falling, or `polish` iterations are done. The result is the point of L-BFGS with the
    smallest worst residual. Φ does not depend on the scale of layers directly before BatchNorm. With `decay`
    "not_scale_invariant" these have no weight decay, and keep their random initial weights. With "all" gradient descent
    shrinks them, initial weights included, so that their rows become combinations of images (`gbc.kkt.row_space`). L-BFGS never
    penalises them, since that would shrink them without end. It runs in float64, because float32 rounds away the differences
    of the objective that its line search needs.

    Raises:
        Diverged: the loss stopped being finite.
    """
    invariant = convergence.before_batch_norm(module, images)
    free: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (free if name.rpartition(".")[0] in invariant else decayed).append(parameter)
    total = config.steps + config.polish
    groups = [[], free + decayed] if config.decay == "all" else [free, decayed]
    _descend(
        module, lambda: (images, labels), config, groups,
        lambda step, loss: _tell_progress(loss, step, total, config, progress),
    )  # fmt: skip
    module.double()
    try:
        polished = _polish(
            module, images.double(), labels, config, decayed,
            lambda step, loss: _tell_progress(loss, config.steps + step, total, config, progress),
        )  # fmt: skip
    finally:
        module.float()
    return config.steps + polished


def stochastic(
    module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig, progress: ProgressCallback | None
) -> int:
    """SGD on random mini-batches of 128, momentum 0.9, cosine decay to 0 and weight decay on every tensor; returns the steps.

    For training sets that are too large for full batches. Batches are drawn from `config.seed`.

    Raises:
        Diverged: the loss stopped being finite.
    """
    rng = torch.Generator().manual_seed(config.seed)

    def batch() -> tuple[Tensor, Tensor]:
        index = torch.randint(len(images), (_MINI_BATCH,), generator=rng)
        return images[index], labels[index]

    _descend(
        module, batch, config, [[], list(module.parameters())],
        lambda step, loss: _tell_progress(loss, step, config.steps, config, progress),
    )  # fmt: skip
    return config.steps


OPTIMISERS: Final[dict[str, Callable[[nn.Module, Tensor, Tensor, ClassifierConfig, ProgressCallback | None], int]]] = {
    "gd": gradient_descent,
    "converge": converge,
    "sgd": stochastic,
}


def _descend(
    module: nn.Module,
    batch: Callable[[], tuple[Tensor, Tensor]],
    config: ClassifierConfig,
    groups: list[list[nn.Parameter]],
    on_step: Callable[[int, Tensor], None],
) -> None:
    """`config.steps` steps of SGD on the images and labels of `batch`; `groups`: parameters without and with weight decay."""
    free, decayed = groups
    parameters = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimiser = SGD([group for group in parameters if group["params"]], lr=config.lr, momentum=_MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        images, labels = batch()
        loss = losses.CLASSIFICATION[config.loss](module(images), labels)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % _CHECK_EVERY == 0 or step == config.steps:
            on_step(step, loss)


def _polish(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: ClassifierConfig,
    decayed: list[nn.Parameter],
    on_step: Callable[[int, Tensor], None],
) -> int:
    """The second half of `converge`; returns the iterations taken. The penalty is on `decayed` alone."""
    optimiser = LBFGS(
        module.parameters(), max_iter=_CHUNK, max_eval=5 * _CHUNK, history_size=30,
        tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = losses.CLASSIFICATION[config.loss](module(images), labels)
        penalised = loss + 0.5 * config.weight_decay * torch.stack([p.square().sum() for p in decayed]).sum()
        penalised.backward()
        return penalised

    # Rounding moves samples across kinks, where ∇L jumps, so residuals are measured after rounding to float32. Minima often
    # lie on kinks, so the residual can grow while the objective falls: the best point is kept.
    rounded, single = copy.deepcopy(module).float(), images.float()
    least, best = _worst_residual(rounded, single, labels, config), _parameters(rounded)
    step, before = 0, math.inf
    while step < config.polish and least > config.tolerance:
        loss = optimiser.step(objective)  # the value before this chunk
        step += _CHUNK
        on_step(step, loss)
        _set_parameters(rounded, _parameters(module))
        worst = _worst_residual(rounded, single, labels, config)
        if worst < least:
            least, best = worst, _parameters(rounded)
        if not loss < before:
            break
        before = loss.item()
    _set_parameters(module, best)
    return step


def _parameters(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


@torch.no_grad()
def _set_parameters(module: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.copy_(value)


def _worst_residual(module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig) -> float:
    return max(convergence.residuals(module, images, labels, config.weight_decay, config.loss).values())


def _tell_progress(loss: Tensor, step: int, steps: int, config: ClassifierConfig, progress: ProgressCallback | None) -> None:
    """Check that the loss is finite and pass it on. Only here does training wait for the value of its loss."""
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(step, f"the classifier's {config.loss.replace('_', '-')}")
    if progress:
        progress(step, steps, value)
