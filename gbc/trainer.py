"""Algorithm 1: train a generator so that its samples make the classifier's parameters a KKT point.

`Trainer.step()` is one optimiser step without a host synchronisation; `Trainer.run()` yields a `Report` now and then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from gbc import homogeneity, losses, pictures
from gbc.classifiers import BatchNormInputs, Classifier, kaiming, normalising_by
from gbc.config import TrialConfig
from gbc.errors import BadInput, Diverged, NotQuasiHomogeneous
from gbc.generator import Generator
from gbc.metrics import Judge, Verdict
from gbc.multipliers import MultiplierNetwork
from gbc.report import Report

# A wrong Λ is off by tens of per cent; float64 rounding through three layers stays below 1e-9.
_LAMBDA_TOLERANCE: Final = 1e-8


class Pass:
    """One batch through every network. Quantities are computed when a loss first asks, so absent losses cost nothing."""

    def __init__(self, trainer: Trainer, images: Tensor, labels: Tensor) -> None:
        """`images` [M, channels, height, width] carry the generator's graph, `labels` are [M]."""
        self.trainer, self.images, self.labels = trainer, images, labels

    @cached_property
    def logits(self) -> Tensor:
        """Φ(x; ζ), [M, C]."""
        with normalising_by(self.trainer.phi, self.trainer.config.bn_mode):
            return self.trainer.phi(self.images)

    @cached_property
    def multipliers(self) -> Tensor:
        """μ, [M, C]."""
        return self.trainer.multipliers(self.images, self.labels)

    @cached_property
    def pull(self) -> Tensor:
        """Right-hand side of Eq. (4), [P]."""
        return losses.pull(self.logits, self.labels, self.multipliers, self.trainer.zeta)

    @cached_property
    def target(self) -> Tensor:
        """Left-hand side of Eq. (4), [P]."""
        trainer = self.trainer
        return losses.scaled_parameters(trainer.zeta_flat, trainer.degrees, trainer.alpha, trainer.classifier.samples)

    @cached_property
    def margins(self) -> Tensor:
        """Φ_y − max Φ_c, [M]."""
        return losses.margins(self.logits, self.labels)

    @cached_property
    def batch_norm(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Statistics of the last forward pass beside the stored ones, by layer."""
        assert self.logits is not None  # the hooks saw this batch
        return self.trainer.batch_norm_inputs.statistics()


LOSSES: Final[dict[str, Callable[[Pass], Tensor]]] = {
    "stationarity": lambda p: losses.stationarity(p.target, p.pull),
    "duality": lambda p: losses.duality(p.margins, p.trainer.alpha, p.trainer.config.delta),
    "tv": lambda p: losses.total_variation(p.images),
    "bn": lambda p: losses.batch_norm_statistics(p.batch_norm),
    "ce": lambda p: losses.cross_entropy(p.logits, p.labels),
}


def weights(config: TrialConfig) -> dict[str, float]:
    """The weight of each loss in the total, Eq. (7) and what we add to it."""
    return {
        "stationarity": config.stationarity_weight,
        "duality": config.beta,
        "tv": config.tv_weight,
        "bn": config.bn_weight,
        "ce": config.ce_weight,
    }


class Trainer:
    """One run of Algorithm 1. Continuing from `state_dict()` gives the numbers an unbroken run gives."""

    def __init__(self, config: TrialConfig, classifier: Classifier, judge: Judge | None = None) -> None:
        """`judge` scores the samples at each report; without one only data-free metrics are reported.

        Raises:
            BadInput: a device that is not there, or settings that do not fit the classifier.
            NotQuasiHomogeneous: Λ does not satisfy its definition on this classifier.
        """
        if config.classifier.loss == "exponential":
            raise BadInput("classifier.loss is exponential, but a generator needs class logits; use cross_entropy")
        self.config: TrialConfig = config
        self.classifier, self.judge = classifier, judge
        self.device = pick_device(config.device)
        self.step_count = 0
        classes = len(classifier.class_names)

        self.phi = classifier.module.to(self.device)
        self.zeta = list(self.phi.parameters())
        self.zeta_flat = torch.cat([parameter.detach().flatten() for parameter in self.zeta])
        self.batch_norm_inputs = BatchNormInputs(self.phi)
        if config.bn_weight and not self.batch_norm_inputs.layers:
            raise BadInput(f"bn_weight is {config.bn_weight}, but the classifier has no BatchNorm layer; set it to 0")

        initial = torch.Generator().manual_seed(derive(config.seed, 0))
        self.generator = Generator(
            classes=classes, shape=classifier.shape,
            noise_dim=config.noise_dim, width=config.width, channels=config.channels,
        )  # fmt: skip
        self.multipliers = MultiplierNetwork(classes=classes, shape=classifier.shape, width=config.multiplier_width)
        for network in (self.generator, self.multipliers):
            kaiming(network, initial)
            network.to(self.device)
        self.alpha: Tensor = torch.tensor(config.alpha_init, device=self.device, requires_grad=True)

        self.rng = torch.Generator(self.device).manual_seed(derive(config.seed, 1))
        judged = torch.Generator(self.device).manual_seed(derive(config.seed, 2))
        self.judged_labels = torch.arange(classes, device=self.device).repeat(config.eval_per_class)
        self.judged_noise = torch.randn(len(self.judged_labels), config.noise_dim, generator=judged, device=self.device)

        degrees = homogeneity.POLICIES[config.lambda_policy](self.phi)
        self._check(degrees)
        self.degrees = homogeneity.flat(degrees, self.phi)

        networks = [*self.generator.parameters(), *self.multipliers.parameters()]
        self.trained = [*networks, self.alpha]
        # Weight decay would pull α to 0 for no reason.
        groups: list[dict[str, Any]] = [{"params": networks}, {"params": [self.alpha], "weight_decay": 0.0}]
        self.optimiser = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        if config.stationarity_weight:
            self._fit_multiplier_scale()
        self._clear_sums()

    def step(self) -> None:
        """One optimiser step on a fresh batch; the device is not waited for."""
        self._schedule()
        batch = self._sample()
        parts = {name: LOSSES[name](batch) for name, weight in weights(self.config).items() if weight}
        total = torch.stack([weight * parts[name] for name, weight in weights(self.config).items() if weight]).sum()
        self.optimiser.zero_grad()
        total.backward(inputs=self.trained)  # not ζ: the classifier stays as it is
        self.optimiser.step()
        self.step_count += 1
        self._last = batch
        self._add_up({"total": total, **parts})

    def run(self) -> Iterator[Report]:
        """Train to the full horizon, yielding a report after every `report_every` steps.

        Losses, ρ and gradient norms are means since the last report; margins and multipliers are those of its last batch.

        Raises:
            Diverged: a loss is not finite. Checked at reports, where the device is waited for anyway.
        """
        while self.step_count < self.config.steps:
            began = time.perf_counter()
            for _ in range(self.config.report_every):
                self.step()
            yield self._report(began)

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images [K, channels, height, width] for noise [K, noise_dim] and labels [K], as users of the generator get."""
        self.generator.eval()
        images: Tensor = self.generator(noise, labels)
        self.generator.train()
        return images

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, in types that a weights-only checkpoint holds."""
        return {
            "step": self.step_count,
            "generator": self.generator.state_dict(),
            "multipliers": self.multipliers.state_dict(),
            "alpha": self.alpha.detach(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a trainer with the same settings.

        Raises:
            BadInput: the state belongs to other networks.
        """
        try:
            self.generator.load_state_dict(state["generator"])
            self.multipliers.load_state_dict(state["multipliers"])
            with torch.no_grad():
                self.alpha.copy_(state["alpha"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.rng.set_state(state["rng"])
            self.step_count = state["step"]
        except (KeyError, RuntimeError, ValueError) as fault:
            raise BadInput(f"the checkpoint does not fit these settings: {str(fault).splitlines()[0]}") from None
        self._clear_sums()

    def _sample(self) -> Pass:
        """A batch of generated images; the labels share the uniform prior as evenly as the batch allows."""
        size, classes = self.config.batch_size, self.generator.classes
        # Systematic sampling: unbiased, and no class is over-represented by chance.
        start = torch.randint(classes, (), generator=self.rng, device=self.device)
        labels = (torch.arange(size, device=self.device) + start) % classes
        noise = torch.randn(size, self.config.noise_dim, generator=self.rng, device=self.device)
        return Pass(self, self.generator(noise, labels), labels)

    def _schedule(self) -> None:
        if self.config.lr_schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.step_count / self.config.steps))
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.lr * factor

    def _check(self, degrees: homogeneity.Degrees) -> None:
        probe = torch.rand(32, *self.classifier.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        error = homogeneity.relative_error(self.phi, degrees, probe, mode=self.config.bn_mode)
        if not error < _LAMBDA_TOLERANCE:
            raise NotQuasiHomogeneous(self.config.lambda_policy, f"Φ(x; e^(αΛ)ζ) is off by {error:.1e} (relative)")

    def _fit_multiplier_scale(self) -> None:
        """Least squares: the factor on μ that brings the pull nearest to the target, so that ρ does not start at 1."""
        batch = self._sample()
        target, pull = batch.target.detach(), batch.pull.detach()
        fitted = (target @ pull) / (pull @ pull)
        # Where the two point apart the best factor is negative, which μ ≥ 0 forbids: start small, but not at 0.
        scale = torch.where(fitted > 0, fitted, 0.1 * target.norm() / pull.norm())
        if torch.isfinite(scale):
            self.multipliers.scale.copy_(scale)

    def _add_up(self, parts: dict[str, Tensor]) -> None:
        values = {f"loss/{name}": value.detach() for name, value in parts.items()}
        if self.config.stationarity_weight:
            values["kkt/rho"] = losses.relative_residual(self._last.target, self._last.pull).detach()
        for name, network in (("generator", self.generator), ("multipliers", self.multipliers)):
            gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            if gradients:  # without stationarity nothing asks for multipliers
                values[f"grad/{name}"] = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value

    def _clear_sums(self) -> None:
        self._sums: dict[str, Tensor | int] = {}

    @torch.no_grad()
    def _report(self, began: float) -> Report:
        steps = self.config.report_every
        metrics = {name: float(value) / steps for name, value in self._sums.items()}
        self._clear_sums()
        speed = steps / (time.perf_counter() - began)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(self.step_count, name)

        metrics["kkt/alpha"] = self.alpha.item()
        if self.config.stationarity_weight:
            multipliers = self._last.multipliers
            metrics["kkt/mu_mean"] = multipliers.mean().item()
            metrics["kkt/mu_active"] = (multipliers > 0).float().mean().item()
        quantiles = torch.quantile(self._last.margins, torch.tensor([0.05, 0.5, 0.95], device=self.device))
        metrics |= dict(zip(("margin/q05", "margin/q50", "margin/q95"), quantiles.tolist(), strict=True))

        images, picture = self.sample(self.judged_noise, self.judged_labels), None
        with normalising_by(self.phi, "eval"):
            found = self.phi(images).argmax(dim=1)
        metrics["classifier/accuracy"] = (found == self.judged_labels).float().mean().item()
        if self.judge:
            verdict = Verdict(self.judge, images, self.judged_labels)
            metrics |= verdict.scores()
            nearest = self.judge.train_images[verdict.nearest[0]]
            picture = pictures.pairs(images[: len(nearest)], nearest, len(self.classifier.class_names))
        metrics["time/steps_per_s"] = speed
        return Report(self.step_count, metrics, picture)


def pick_device(name: str) -> torch.device:
    """`auto` takes the first GPU if there is one.

    Raises:
        BadInput: a GPU is asked for that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device is {name!r}, but this machine has {torch.cuda.device_count()} GPUs; use 'auto' or 'cpu'")
    return device


def derive(seed: int, stream: int) -> int:
    """A seed for stream number `stream` of a run; different for every pair."""
    import numpy as np

    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)
