"""Algorithms 1 and 2: train a generator so that its samples make classifiers' parameters KKT points.

`Trainer.step()` is one optimiser step without a host synchronisation; `Trainer.run()` yields a `Report` at intervals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn, optim

from gbc import losses
from gbc.classifiers.architectures import Classifier, kaiming
from gbc.config import TrialConfig
from gbc.errors import BadInput, Diverged
from gbc.kkt import multipliers
from gbc.kkt.gradient_shares import gradient_shares
from gbc.kkt.multipliers import FreeMultipliers
from gbc.kkt.trial_classifier import ForwardPass, TrialClassifier, all_class_names, forget_passes, labels_of_task, remember
from gbc.kkt.weighted_losses import Batch, Term, check_factors, late_losses_count, weighted_losses
from gbc.metrics.scores import ReferenceSet
from gbc.optimisers import Adam
from gbc.report import Report
from gbc.runtime import derive_seed, keep_freed_memory, pick_device
from gbc.training.batches import BatchSampler, tasks_for
from gbc.training.cuda_graph import GraphReplay
from gbc.training.generator import EVALUATION_SEED, Pixels, build
from gbc.training.reporting import EvaluationImages, LastPass, data_free_metrics, judge, kkt_state


class Trainer:
    """One run of Algorithm 1 or 2. A run that continues from `state_dict()` gives the same numbers as one without a break."""

    def __init__(self, config: TrialConfig, classifiers: Sequence[Classifier], reference: ReferenceSet | None = None) -> None:
        """`classifiers` are those of `config.classifiers()`, in order. Reports score samples against `reference`, if any.

        Raises:
            BadInput: a device that this machine lacks, or settings that do not fit the classifiers.
            NotQuasiHomogeneous: Λ does not satisfy its definition on a classifier.
        """
        keep_freed_memory()
        self.config, self.reference = config, reference
        self.device = pick_device(config.device)
        self.step_count = 0
        self.class_names = all_class_names(classifiers)
        specs = config.classifiers()
        check_factors(specs)
        self.classifiers = [
            TrialClassifier(loaded, spec, config, index, self.class_names, self.device)
            for index, (loaded, spec) in enumerate(zip(classifiers, specs, strict=True))
        ]
        self.queues = nn.ModuleList(each.queue for each in self.classifiers if each.queue)
        self.labels_of_task = [torch.tensor(labels, device=self.device) for labels in labels_of_task(specs, classifiers)]
        self._check_fit()
        shape, classes = classifiers[0].shape, len(self.class_names)

        initial = torch.Generator().manual_seed(derive_seed(config.seed, 0))
        self.generator = build(config, classes=classes, shape=shape, tasks=len(self.labels_of_task))
        if isinstance(self.generator, Pixels):
            self.generator.start(initial, config.pixel_start)
        batch_size = config.batch_size
        most_classes = max(len(classifier.class_names) for classifier in classifiers)
        count = self.generator.count if isinstance(self.generator, Pixels) else None
        self.multipliers = multipliers.build(
            config, classes=most_classes, shape=shape, classifiers=len(self.classifiers), images=count
        )
        if isinstance(self.multipliers, FreeMultipliers):
            # Stationarity is a property of all samples: if each image has its own multiplier, every step uses all images.
            batch_size = self.multipliers.count
            self.multipliers.start(initial)
        for network in (self.generator, self.multipliers):
            kaiming(network, initial)
            network.to(self.device)

        self.rng = torch.Generator(self.device).manual_seed(derive_seed(config.seed, 1))
        self.batches = BatchSampler(config, self.generator, self.labels_of_task, batch_size, self.rng)
        # The same latents for every trial, on every device, so that pictures and scores can be compared and an export can
        # draw the picture again.
        labels = torch.arange(classes).repeat(config.eval_per_class)
        latents = self.generator.evaluation_latents(labels, torch.Generator().manual_seed(EVALUATION_SEED))
        self.evaluation_labels, self.evaluation_noise = labels.to(self.device), latents.to(self.device)
        self.evaluation_tasks = tasks_for(self.evaluation_labels, self.labels_of_task)

        generator_parameters, multiplier_parameters = list(self.generator.parameters()), list(self.multipliers.parameters())
        alphas = [classifier.alpha for classifier in self.classifiers]
        self.trained = [*generator_parameters, *multiplier_parameters, *alphas]
        # Weight decay would draw α, and free λ, to 0 without a reason.
        not_decayed: dict[str, Any] = {"params": alphas, "weight_decay": 0.0}
        groups = [{"params": generator_parameters + multiplier_parameters}, not_decayed]
        if config.multipliers != "network":
            rate = {"ratio": config.multiplier_rate, "lr": self._rate(config.multiplier_rate)}
            free = {"params": multiplier_parameters, "weight_decay": 0.0, **rate}
            groups = [{"params": generator_parameters}, not_decayed, free]
        self.optimiser = Adam(
            groups, lr=self._rate(), weight_decay=config.weight_decay, fused=True, capturable=self.device.type == "cuda"
        )
        if config.stationarity_weight or config.reconstruction_weight:
            self.fit_multiplier_scale()
        self.further_losses: Callable[[Batch, Sequence[ForwardPass]], list[Term]] = lambda *_: []
        """Losses of a batch and its passes beside those of the settings."""
        self.average = deepcopy(self.generator).requires_grad_(False) if config.ema_decay else None
        self._sums: dict[str, Tensor] = {}
        self._clear_sums()
        self._replayed_step = GraphReplay[tuple[list[Batch], list[LastPass], tuple[str, ...]]](self.rng)

    def step(self) -> None:
        """Make one optimiser step on new batches, one for each task, without waiting for the device."""
        self._schedule()
        late = late_losses_count(self.config, self.step_count)
        self.last_batches, self._last_passes, names = self._replayed_step(self._device_step, self._changing_tensors, late)
        for name in names:
            self._counts[name] = self._counts.get(name, 0) + 1
        self.step_count += 1

    def run(self) -> Iterator[Report]:
        """Train for all steps, and yield a report after every `report_every` of them.

        Losses, ρ and gradient norms are means since the last report; margins and multipliers are those of its last batch.

        Raises:
            Diverged: a loss is not finite. This is checked at reports, which wait for the device anyway.
        """
        while self.step_count < self.config.steps:
            began = time.perf_counter()
            for _ in range(self.config.report_every):
                self.step()
            yield self._report(began)

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor, tasks: Tensor) -> Tensor:
        """Images [K, channels, height, width] for noise [K, noise_dim], labels [K] and t [K].

        They are those of the exported generator: in eval mode, of the moving average if there is one.
        """
        generator = (self.average or self.generator).eval()
        images: Tensor = generator(noise, labels, tasks)
        generator.train()
        return images

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, in types that a weights-only checkpoint can hold."""
        return {
            "step": self.step_count,
            "generator": self.generator.state_dict(),
            "multipliers": self.multipliers.state_dict(),
            "alphas": [classifier.alpha.detach() for classifier in self.classifiers],
            "optimiser": self.optimiser.state_dict(),
            "queues": self.queues.state_dict(),
            "rng": self.rng.get_state(),
            **({"average": self.average.state_dict()} if self.average else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a trainer with the same settings.

        Raises:
            BadInput: the state belongs to other networks.
        """
        try:
            self.generator.load_state_dict(state["generator"])
            self.multipliers.load_state_dict(state["multipliers"])
            if self.average:
                self.average.load_state_dict(state["average"])
            with torch.no_grad():
                for classifier, alpha in zip(self.classifiers, state["alphas"], strict=True):
                    classifier.alpha.copy_(alpha)
            self.queues.load_state_dict(state.get("queues", {}))
            self.optimiser.load_state_dict(state["optimiser"])
            for group in self.optimiser.param_groups:  # the state may come from another kind of device
                group["capturable"], group["lr"] = self.device.type == "cuda", self._rate(group.get("ratio", 1.0))
            self.step_count = state["step"]
            if len(state["rng"]) == len(self.rng.get_state()):
                self.rng.set_state(state["rng"])
            else:  # from another kind of device, whose random numbers this device cannot continue
                self.rng.manual_seed(derive_seed(self.config.seed, 4 + self.step_count))
        except (KeyError, RuntimeError, ValueError) as fault:
            raise BadInput(f"the checkpoint does not fit these settings: {str(fault).splitlines()[0]}") from None
        self._clear_sums()
        self._replayed_step.reset()

    def _device_step(self) -> tuple[list[Batch], list[LastPass], tuple[str, ...]]:
        """Make the part of a step that runs on the device. Returns batches, last passes, and the names of summed values."""
        batches = [self.batches.sample(task) for task in range(len(self.labels_of_task))]
        passes, terms = list[ForwardPass](), list[Term]()
        for task, batch in enumerate(batches):
            of_task = self._passes(task, batch)
            passes += of_task
            terms += weighted_losses(self.config, batch, of_task, self.step_count)
            terms += self.further_losses(batch, of_task)
        if not terms:
            raise BadInput("no loss has weight at this step: set stationarity_weight or another, or kkt_from to 0 if they wait")
        parts: dict[str, Tensor] = {}
        for term in terms:
            parts[term.name] = parts.get(term.name, 0) + term.value
        total = torch.stack([term.weight * term.value for term in terms]).sum()
        self.optimiser.zero_grad()
        total.backward(inputs=self.trained)  # not ζ: the classifiers do not change
        self.optimiser.step()
        self._update_average()
        remember(passes)
        values = {f"loss/{name}": value.detach() for name, value in {"total": total, **parts}.items()} | self._norms(passes)
        for name, value in values.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value)
            self._sums[name].add_(value)
        forget_passes(self.classifiers)
        with_multipliers = [
            bool(each.classifier.weights["stationarity"] or each.classifier.weights["reconstruction"]) for each in passes
        ]
        return (
            [replace(batch, images=batch.images.detach()) for batch in batches],
            [
                LastPass(each.margins.detach(), each.labels, each.multipliers.detach() if used else None)
                for each, used in zip(passes, with_multipliers, strict=True)
            ],
            tuple(values),
        )

    def _passes(self, task: int, batch: Batch) -> list[ForwardPass]:
        """Forward passes of a batch of one task through each of the task's classifiers."""
        return [
            ForwardPass(classifier, self.multipliers, batch.images, batch.labels, batch.noise)
            for classifier in self.classifiers
            if classifier.task == task
        ]

    @torch.no_grad()
    def _update_average(self) -> None:
        """Make one step of the exponential moving average of the generator's weights and BatchNorm statistics."""
        if self.average:
            pairs = zip(self.average.state_dict().values(), self.generator.state_dict().values(), strict=True)
            averaged, current = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
            optim.swa_utils.get_ema_multi_avg_fn(self.config.ema_decay)(averaged, current, None)

    def _changing_tensors(self) -> list[Tensor]:
        """Every tensor that a step changes, except the state of the random generator."""
        buffers = [*self.generator.buffers(), *self.multipliers.buffers(), *self.queues.buffers()]
        averaged = self.average.state_dict().values() if self.average else ()
        adam = [value for state in self.optimiser.state.values() for value in state.values()]
        return [*self.trained, *buffers, *averaged, *adam, *self._sums.values()]

    def _check_fit(self) -> None:
        shapes = {classifier.loaded.shape for classifier in self.classifiers}
        if len(shapes) > 1:
            raise BadInput(f"the classifiers look at images of different shapes: {', '.join(map(str, sorted(shapes)))}")
        pixels = self.config.generator == "pixels"
        if max(map(len, shapes)) == 1 and (pixels or self.config.tv_weight or self.config.border_weight):
            raise BadInput("points are no images: set tv_weight and border_weight to 0 and generator to convolutional")
        labels, evaluated = len(self.class_names), len(self.class_names) * self.config.eval_per_class
        if self.config.candidates and (self.config.candidates < evaluated or self.config.candidates % labels):
            raise BadInput(
                f"candidates must be a multiple of {labels}, the number of classes, and at least {evaluated}, which "
                f"eval_per_class needs; it is {self.config.candidates}"
            )
        most = max(map(len, self.labels_of_task))
        sized_by = "batch_size" if self.config.multipliers == "network" else "candidates"  # which are all in every step
        size = self.config.batch_size if sized_by == "batch_size" else self.config.candidates or evaluated
        pairs = {"estimator halves": self.config.estimator == "halves", "diversity_weight": self.config.diversity_weight}
        for setting in (name for name, used in pairs.items() if used and size <= most):
            raise BadInput(f"{setting} needs two samples of a class: {sized_by} must be above {most}, not {size}")

    def _rate(self, ratio: float = 1.0) -> float | Tensor:
        """The learning rate for the optimiser; on a GPU a tensor, so that a captured step follows the schedule."""
        rate = ratio * self.config.lr
        return torch.tensor(rate, device=self.device) if self.device.type == "cuda" else rate

    def _schedule(self) -> None:
        if self.config.lr_schedule == "cosine":
            rate = self.config.lr * 0.5 * (1 + math.cos(math.pi * self.step_count / self.config.steps))
            for group in self.optimiser.param_groups:
                group_rate = rate * group.get("ratio", 1.0)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group_rate)
                else:
                    group["lr"] = group_rate

    def fit_multiplier_scale(self) -> None:
        """Set the factor on μ by least squares, so that the pull is nearest to the target and ρ does not start at 1."""
        for classifier in self.classifiers:
            without_target = "stationarity" in classifier.off or not self.config.stationarity_weight
            if without_target and not self.config.reconstruction_weight:
                continue
            batch = self.batches.sample(classifier.task)
            first_pass = ForwardPass(classifier, self.multipliers, batch.images, batch.labels, batch.noise)
            target, pull = first_pass.target, first_pass.margin_gradient
            if without_target:
                target, pull = classifier.zeta, tuple(len(batch.images) * part for part in pull)
            with torch.no_grad():
                scale = losses.fitted_scale(target, pull)
                if torch.isfinite(scale):
                    self.multipliers.scale[classifier.index] = scale
            forget_passes(self.classifiers)

    @torch.no_grad()
    def _norms(self, passes: Sequence[ForwardPass]) -> dict[str, Tensor]:
        """ρ of each pass, and the norms of the gradients, by metric."""
        values: dict[str, Tensor] = {}
        for each in passes:
            if each.classifier.weights["stationarity"] and late_losses_count(self.config, self.step_count):
                rho = each.rho()
                values["kkt/rho"] = values.get("kkt/rho", 0) + rho / len(passes)
                if len(passes) > 1:
                    values[f"kkt/rho_{each.classifier.index + 1}"] = rho
        for name, network in (("generator", self.generator), ("multipliers", self.multipliers)):
            gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            if gradients:  # without stationarity no loss uses multipliers
                values[f"grad/{name}"] = nn.utils.get_total_norm(gradients)
        return values

    def _clear_sums(self) -> None:
        # Each value has its own count, because a loss that starts late is averaged over fewer steps.
        self._counts: dict[str, int] = {}
        for value in self._sums.values():
            value.zero_()  # in place: a captured step adds to these tensors

    @torch.no_grad()
    def _report(self, began: float) -> Report:
        metrics = {name: float(self._sums[name]) / count for name, count in self._counts.items()}
        self._clear_sums()
        speed = self.config.report_every / (time.perf_counter() - began)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(self.step_count, name)

        metrics |= kkt_state(self.classifiers, self._last_passes) | self._gradient_shares()
        images = self.sample(self.evaluation_noise, self.evaluation_labels, self.evaluation_tasks)
        evaluated = EvaluationImages(images, self.evaluation_noise, self.evaluation_labels, self.evaluation_tasks)
        metrics |= data_free_metrics(self.classifiers, self.multipliers, evaluated)
        forget_passes(self.classifiers)
        scores, picture = judge(self.reference, evaluated, len(self.class_names), self.config.student_steps)
        metrics |= scores | {"time/steps_per_s": speed}
        return Report(self.step_count, metrics, picture)

    @torch.enable_grad()
    def _gradient_shares(self) -> dict[str, float]:
        """Shares of the KKT conditions in the gradient at the last batch. Draws no random number and leaves no gradient."""

        def of_each_task() -> Iterator[tuple[Tensor, list[Term]]]:
            for task, batch in enumerate(self.last_batches):
                images = batch.images.clone().requires_grad_()
                again = replace(batch, images=images)
                yield images, weighted_losses(self.config, again, self._passes(task, again), self.step_count - 1)

        return gradient_shares(of_each_task())
