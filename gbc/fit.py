"""Ways to minimise a classifier's loss on its whole training set: each changes the network in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from gbc import losses, regime
from gbc.config import ClassifierConfig
from gbc.errors import Diverged

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, loss) now and then."""

_CHECK_EVERY: Final = 100
_CHUNK: Final = 20  # iterations of L-BFGS between two looks at the residuals
_MOMENTUM: Final = 0.9


def gradient_descent(
    module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig, progress: Progress | None
) -> int:
    """Full-batch gradient descent with weight decay on every tensor, as in supplement C.2; returns the steps taken.

    Stops early when every residual is within `tolerance`.

    Raises:
        Diverged: the loss stopped being finite.
    """
    optimiser = torch.optim.SGD(module.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    step = 0
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        loss = losses.CLASSIFICATION[config.loss](module(images), labels)
        loss.backward()
        optimiser.step()
        if step % _CHECK_EVERY == 0 or step == config.steps:
            _look(loss, step, config.steps, config, progress)
            if config.tolerance and _converged(module, images, labels, config):
                break
    return step


def converge(module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig, progress: Progress | None) -> int:
    """Minimise L + wd/2·‖ζ‖² to stationarity: Nesterov's momentum with cosine decay to 0, then L-BFGS; returns the steps.

    Layers that go straight into BatchNorm carry no weight decay: Φ does not depend on their scale, so the penalty would
    shrink them for ever and no stationary point would exist. L-BFGS runs in float64, where its line search still sees
    differences of the loss that float32 rounds away.

    Raises:
        Diverged: the loss stopped being finite.
    """
    invariant = regime.before_batch_norm(module, images)
    free: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (free if name.rpartition(".")[0] in invariant else decayed).append(parameter)
    total = config.steps + config.polish
    _descend(module, images, labels, config, [free, decayed], lambda step, loss: _look(loss, step, total, config, progress))
    module.double()
    try:
        polished = _polish(
            module, images.double(), labels, config, decayed,
            lambda step, loss: _look(loss, config.steps + step, total, config, progress),
        )  # fmt: skip
    finally:
        module.float()
    return config.steps + polished


OPTIMISERS: Final[dict[str, Callable[[nn.Module, Tensor, Tensor, ClassifierConfig, Progress | None], int]]] = {
    "gd": gradient_descent,
    "converge": converge,
}


def _descend(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: ClassifierConfig,
    groups: list[list[nn.Parameter]],
    look: Callable[[int, Tensor], None],
) -> None:
    """`config.steps` steps of SGD; `groups` are the parameters without and with weight decay."""
    free, decayed = groups
    parameters = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(
        [group for group in parameters if group["params"]], lr=config.lr, momentum=_MOMENTUM, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(1, config.steps + 1):
        optimiser.zero_grad()
        loss = losses.CLASSIFICATION[config.loss](module(images), labels)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % _CHECK_EVERY == 0 or step == config.steps:
            look(step, loss)


def _polish(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: ClassifierConfig,
    decayed: list[nn.Parameter],
    look: Callable[[int, Tensor], None],
) -> int:
    """L-BFGS on L + wd/2·‖ζ‖² until the residuals are within tolerance, nothing improves, or `config.polish` is used up."""
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=_CHUNK, max_eval=2 * _CHUNK, history_size=30,
        tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = losses.CLASSIFICATION[config.loss](module(images), labels)
        penalised = loss + 0.5 * config.weight_decay * torch.stack([p.square().sum() for p in decayed]).sum()
        penalised.backward()
        return penalised

    step, before = 0, float("inf")
    while step < config.polish and not _converged(module, images, labels, config):
        loss = optimiser.step(objective)  # the value before this chunk
        step += _CHUNK
        look(step, loss)
        if not loss < before:
            break
        before = loss.item()
    return step


def _converged(module: nn.Module, images: Tensor, labels: Tensor, config: ClassifierConfig) -> bool:
    residuals = regime.residuals(module, images, labels, config.weight_decay, config.loss)
    return max(residuals.values()) <= config.tolerance


def _look(loss: Tensor, step: int, steps: int, config: ClassifierConfig, progress: Progress | None) -> None:
    """The one place where training waits for the value of its loss."""
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(step, f"the classifier's {config.loss.replace('_', '-')}")
    if progress:
        progress(step, steps, value)
