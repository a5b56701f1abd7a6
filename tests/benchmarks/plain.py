"""The textbook form of `Trainer.step`: the same function, written as anyone would who reads the paper for the first time.

Modules in torch's default layout, Eqs. (3a), (5) and (6) on one flat vector as they are printed (signs as in docs/method.md),
`loss.backward()`, torch's own Adam. Nothing is fused, shared or left out, and nothing is slowed down on purpose: S is
differentiated in one pass, as ours is; `per_sample=True` takes one gradient for each sample instead, as Eq. (5) is printed.

A test holds ours to it (`tests/gbc/training/test_plain.py`), a benchmark times both. Ours also keeps means of all losses, of ρ
and of gradient norms; this form keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gbc.classifier_config import TrialClassifierConfig
from gbc.classifiers.architectures import BATCH_NORMS, Classifier, kaiming
from gbc.classifiers.convergence import before_batch_norm
from gbc.config import TrialConfig
from gbc.kkt import homogeneity
from gbc.kkt.trial_classifier import all_class_names, labels_of_task
from gbc.runtime import pick_device
from gbc.training.trainer import Trainer


class PlainGenerator(nn.Module):
    """g(ε, y, t; θ): three fully connected layers, three transposed convolutions (section 5.2)."""

    def __init__(self, settings: TrialConfig, shape: tuple[int, ...], classes: int, tasks: int) -> None:
        super().__init__()
        colours, height, breadth = shape
        width, channels = settings.width, settings.channels
        self.classes, self.tasks, self.grid = classes, tasks, (channels, height // 4, breadth // 4)
        cells = math.prod(self.grid)
        self.fully_connected = nn.Sequential(
            nn.Linear(settings.noise_dim + classes + (tasks if tasks > 1 else 0), width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, cells), nn.BatchNorm1d(cells), nn.ReLU(),
        )  # fmt: skip
        self.transposed = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1), nn.BatchNorm2d(channels // 2), nn.ReLU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 4, stride=2, padding=1), nn.BatchNorm2d(channels // 4), nn.ReLU(),
            nn.ConvTranspose2d(channels // 4, colours, 3, padding=1),
        )  # fmt: skip

    def forward(self, noise: Tensor, labels: Tensor, tasks: Tensor) -> Tensor:
        inputs = [noise, nn.functional.one_hot(labels, self.classes).to(noise.dtype)]
        if self.tasks > 1:
            inputs.append(nn.functional.one_hot(tasks, self.tasks).to(noise.dtype))
        features = self.fully_connected(torch.cat(inputs, dim=1))
        return torch.sigmoid(self.transposed(features.view(-1, *self.grid)))


class PlainMultipliers(nn.Module):
    """μ' = h(x, y, t; η), and μ = ReLU(μ') plus a floor."""

    scale: Tensor

    def __init__(self, settings: TrialConfig, shape: tuple[int, ...], classes: int, classifiers: int) -> None:
        super().__init__()
        self.classes, self.classifiers, width = classes, classifiers, settings.multiplier_width
        self.layers = nn.Sequential(
            nn.Linear(math.prod(shape) + classes + (classifiers if classifiers > 1 else 0), width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, classes),
        )  # fmt: skip
        self.register_buffer("scale", torch.ones(classifiers))
        self.floor = settings.multiplier_floor

    def forward(self, images: Tensor, labels: Tensor, classifier: int) -> Tensor:
        inputs = [images.flatten(1), nn.functional.one_hot(labels, self.classes).to(images.dtype)]
        if self.classifiers > 1:
            classifier_one_hot = nn.functional.one_hot(torch.full_like(labels, classifier), self.classifiers)
            inputs.append(classifier_one_hot.to(images.dtype))
        return self.scale[classifier] * (torch.relu(self.layers(torch.cat(inputs, dim=1))) + self.floor)


@dataclass
class _Known:
    """Φ, and what Eqs. (5) and (6) ask of it."""

    phi: nn.Module
    samples: int
    task: int
    factors: Mapping[str, float]
    local: Tensor
    """Its own number of each of the generator's labels."""
    degrees: Tensor
    """The diagonal of Λ, [P]."""
    zeta: Tensor
    """Its parameters, [P]."""
    alpha: Tensor
    decayed: Mapping[str, float]
    """Weight decay of the parameters that the closed form asks for."""
    rows: Tensor | None
    """The first layer's singular directions, each times the root of what is kept of it; None where no loss asks for them."""
    centred: bool
    """True if BatchNorm follows the first layer."""
    seen: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    """Inputs of its BatchNorm layers in the last forward pass."""


class Plain:
    """Trains as `Trainer` does. Does not know banks, pixels, the surrogate, held α, and of estimators only the norm and ρ."""

    def __init__(self, settings: TrialConfig, classifiers: Sequence[Classifier], *, per_sample: bool = False) -> None:
        """`classifiers` as for `Trainer`, but its own: a trainer leaves hooks on them.

        `per_sample` needs `bn_mode` eval: under the batch's statistics no sample has a gradient of its own.
        """
        unknown = settings.bank or settings.surrogate or settings.alpha != "learned" or settings.row_space_layers != "first"
        unknown = unknown or settings.estimator not in ("norm", "relative") or settings.contrast_weight
        if unknown or settings.generator != "convolutional" or len(classifiers[0].shape) != 3:
            raise NotImplementedError(
                "the plain form has no bank, contrast, pixels, points, surrogate, held α, cosine and halves"
            )
        if per_sample and settings.bn_mode != "eval":
            raise ValueError("gradients of single samples need bn_mode eval")
        self.settings, self.per_sample = settings, per_sample
        self.device, self.steps = pick_device(settings.device), 0
        wanted, names = settings.classifiers(), all_class_names(classifiers)
        self.known = [self._known(*both, names) for both in zip(classifiers, wanted, strict=True)]
        self.labels = [torch.tensor(labels, device=self.device) for labels in labels_of_task(wanted, classifiers)]
        shape, most = classifiers[0].shape, max(len(classifier.class_names) for classifier in classifiers)
        self.generator = PlainGenerator(settings, shape, len(names), len(self.labels))
        self.multipliers = PlainMultipliers(settings, shape, most, len(self.known))
        for network in (self.generator, self.multipliers):
            kaiming(network, torch.Generator().manual_seed(settings.seed))
            network.to(self.device)
        self.rng = torch.Generator(self.device).manual_seed(settings.seed)
        networks = [*self.generator.parameters(), *self.multipliers.parameters()]
        alphas = [{"params": [known.alpha for known in self.known], "weight_decay": 0.0}]
        self.optimiser = torch.optim.Adam([{"params": networks}, *alphas], lr=settings.lr, weight_decay=settings.weight_decay)
        cosine = settings.lr_schedule == "cosine"
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / settings.steps)) if cosine else 1.0
        )

    def start_as(self, trainer: Trainer) -> Plain:
        """Take the weights and the random numbers of a trainer that has made no step."""
        state = trainer.state_dict()
        assert state["step"] == 0, "Adam's state is not taken over"
        self.generator.load_state_dict(state["generator"])
        self.multipliers.load_state_dict(state["multipliers"])
        with torch.no_grad():
            for known, alpha in zip(self.known, state["alphas"], strict=True):
                known.alpha.copy_(alpha)
        self.rng.set_state(state["rng"])
        return self

    def step(self) -> Tensor:
        """One step; the loss."""
        loss = self.loss()
        self.optimiser.zero_grad()
        for known in self.known:
            known.phi.zero_grad()  # or `backward` would add them up without end
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.steps += 1
        return loss.detach()

    def loss(self) -> Tensor:
        """The weighted sum of all losses, Eq. (7) and what we add to it, on fresh batches."""
        total = torch.zeros((), device=self.device)
        for task, known in enumerate(self.labels):
            start = torch.randint(len(known), (), generator=self.rng, device=self.device)
            labels = known[(torch.arange(self.settings.batch_size, device=self.device) + start) % len(known)]
            noise = torch.randn(len(labels), self.settings.noise_dim, generator=self.rng, device=self.device)
            images = self.generator(noise, labels, torch.full_like(labels, task))
            if self.settings.tv_weight:
                total = total + self.settings.tv_weight * total_variation(images)
            if self.settings.diversity_weight:
                total = total + self.settings.diversity_weight * alike(noise, images, len(known))
            for index, known_classifier in enumerate(self.known):
                if known_classifier.task == task:
                    total = total + self._conditions(known_classifier, index, images, labels)
        return total

    def _conditions(self, known: _Known, index: int, images: Tensor, labels: Tensor) -> Tensor:
        """The losses of one classifier for a batch."""
        settings, joined = self.settings, self.steps >= self.settings.kkt_from * self.settings.steps
        weights = {
            "stationarity": settings.stationarity_weight * joined, "duality": settings.beta * joined,
            "closed": settings.closed_weight * joined, "bn": settings.bn_weight, "ce": settings.ce_weight,
            "row_space": settings.row_space_weight,
        }  # fmt: skip
        weights = {name: weight * known.factors.get(name, 1.0) for name, weight in weights.items()}
        known.seen.clear()
        logits, own = known.phi(images), known.local[labels]
        seen = list(known.seen)
        parameters = dict(known.phi.named_parameters())
        total = torch.zeros((), device=self.device)
        if weights["stationarity"]:
            multipliers = self.multipliers(images, own, index)[:, : logits.shape[1]]
            pulled = self._pull_each(known.phi, images, own, multipliers) if self.per_sample else (
                flat(torch.autograd.grad(lagrangian(logits, own, multipliers), list(parameters.values()), create_graph=True))
            )  # fmt: skip
            target = scaled(known.zeta, known.degrees, known.alpha, known.samples)
            distance = torch.norm(target - pulled)
            distance = distance / torch.norm(target) if settings.estimator == "relative" else distance
            total = total + weights["stationarity"] * distance
        if weights["duality"]:
            others = logits.scatter(1, own[:, None], -torch.inf).max(dim=1).values
            slack = logits.gather(1, own[:, None]).squeeze(1) - others - torch.exp(-known.alpha)
            outside = torch.relu(slack - settings.delta) + torch.relu(-slack)
            total = total + weights["duality"] * outside.mean()
        if weights["closed"]:
            asked = [parameters[name] for name in known.decayed]
            entropy = nn.functional.cross_entropy(logits, own)
            descents = torch.autograd.grad(-entropy, asked, create_graph=True)
            terms = [
                closed_form((decay * parameter.detach()).flatten(), descent.flatten())
                for parameter, decay, descent in zip(asked, known.decayed.values(), descents, strict=True)
            ]
            total = total + weights["closed"] * sum(terms) / len(terms)
        if weights["bn"] and seen:
            total = total + weights["bn"] * sum(statistics_apart(layer, values) for layer, values in seen) / len(seen)
        if weights["row_space"]:
            costs = outside_rows(known.rows, images.flatten(1), known.centred)
            total = total + weights["row_space"] * torch.relu(costs - settings.row_space_level).mean()
        if weights["ce"]:
            total = total + weights["ce"] * nn.functional.cross_entropy(logits, own)
        return total

    def _pull_each(self, phi: nn.Module, images: Tensor, labels: Tensor, multipliers: Tensor) -> Tensor:
        """The mean of one gradient for each sample, [P]."""

        def of_one(parameters: dict[str, Tensor], image: Tensor, label: Tensor, mu: Tensor) -> Tensor:
            return lagrangian(torch.func.functional_call(phi, parameters, (image[None],)), label[None], mu[None])

        each = torch.func.vmap(torch.func.grad(of_one), (None, 0, 0, 0))
        return flat(
            [gradient.mean(dim=0) for gradient in each(dict(phi.named_parameters()), images, labels, multipliers).values()]
        )

    def _known(self, classifier: Classifier, wanted: TrialClassifierConfig, names: Sequence[str]) -> _Known:
        settings, phi = self.settings, classifier.module.to(self.device)
        probe = torch.rand(32, *classifier.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        policy = homogeneity.POLICIES[settings.lambda_policy]
        degrees = homogeneity.flat_degrees(policy(phi, settings.bn_mode, settings.lambda_values or {}, probe), phi)
        invariant = before_batch_norm(phi, probe[:2])
        name, first = next((name, layer) for name, layer in phi.named_modules() if hasattr(layer, "weight"))
        if settings.row_space_weight and not isinstance(first, nn.Linear):
            raise NotImplementedError("the plain form knows the row space of a linear layer alone")
        known = _Known(
            rows=kept_directions(first, settings.row_space_eps, name in invariant) if settings.row_space_weight else None,
            centred=name in invariant,
            phi=phi.eval(),
            samples=classifier.samples,
            task=wanted.task,
            factors=wanted.weights,
            local=torch.tensor([list(classifier.class_names).index(n) if n in classifier.class_names else -1 for n in names],
                               device=self.device),
            degrees=degrees,
            zeta=flat(list(phi.parameters())).detach(),
            alpha=torch.tensor(settings.alpha_init, device=self.device, requires_grad=True),
            decayed={name: wanted.classifier.weight_decay for name, _ in phi.named_parameters()
                     if name.rpartition(".")[0] not in invariant},
        )  # fmt: skip
        for layer in phi.modules():
            if isinstance(layer, BATCH_NORMS):
                if settings.bn_mode == "train":
                    layer.train()
                    layer.track_running_stats = False  # its own stay as they are
                layer.register_forward_hook(_keep(known))
        return known


def _keep(known: _Known) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        known.seen.append((layer, inputs[0]))

    return hook


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector [P]."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def lagrangian(logits: Tensor, labels: Tensor, multipliers: Tensor) -> Tensor:
    """S = (1/M) Σ_i Σ_c μ_ic (Φ_{y_i}(x_i) − Φ_c(x_i)), whose ζ-gradient is the right-hand side of Eq. (4)."""
    own = logits.gather(1, labels[:, None])
    return (multipliers * (own - logits)).sum() / len(logits)


def scaled(zeta: Tensor, degrees: Tensor, alpha: Tensor, samples: int) -> Tensor:
    """(1/N) Λ̃ e^{α(2Λ − I)} ζ, Eqs. (3a) and (4); Λ̃ keeps the largest degrees."""
    largest = torch.where(degrees == degrees.max(), degrees, torch.zeros_like(degrees))
    return largest * torch.exp(alpha * (2 * degrees - 1)) * zeta / samples


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, down plus across."""
    down = images[:, :, 1:, :] - images[:, :, :-1, :]
    across = images[:, :, :, 1:] - images[:, :, :, :-1]
    return down.abs().mean() + across.abs().mean()


def alike(noise: Tensor, images: Tensor, classes: int) -> Tensor:
    """Mean of |Δε|/(|Δx| + 0.1·|Δε|) over pairs of samples of one label."""
    moved = (images[classes:] - images[:-classes]).abs().mean(dim=(1, 2, 3))
    asked = (noise[classes:] - noise[:-classes]).abs().mean(dim=1)
    return (asked / (moved + 0.1 * asked)).mean()


def kept_directions(layer: nn.Linear, eps: float, centred: bool) -> Tensor:
    """√w_j v_j of the rows of a layer, [r, K] or with biases [r, K + 1]; w_j = s_j²/(s_j² + ε s_1²)."""
    rows = layer.weight.detach() if centred else torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1)
    _, values, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = values**2 / (values**2 + eps * values[0] ** 2)
    return (kept.sqrt()[:, None] * directions).to(rows.dtype)


def outside_rows(rows: Tensor, inputs: Tensor, centred: bool) -> Tensor:
    """The share of the energy of each input [M, K] that kept directions do not explain, [M]."""
    inputs = inputs - inputs.mean(dim=0) if centred else torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    return 1 - ((inputs @ rows.T) ** 2).sum(dim=1) / (inputs**2).sum(dim=1)


def statistics_apart(layer: nn.Module, values: Tensor) -> Tensor:
    """Mean over features of (Δmean)²/var + (Δstd)²/var, the batch's statistics beside those of a BatchNorm layer."""
    axes = [axis for axis in range(values.ndim) if axis != 1]
    mean, variance = values.mean(dim=axes), values.var(dim=axes)
    shift = (mean - layer.running_mean) ** 2
    spread = (torch.sqrt(variance + 1e-12) - torch.sqrt(layer.running_var)) ** 2
    return ((shift + spread) / (layer.running_var + 1e-5)).mean()


def closed_form(target: Tensor, pulled: Tensor) -> Tensor:
    """(1 − cos) + 0.3·|log(⟨pull, target⟩/‖target‖²)| of one tensor."""
    cosine = nn.functional.cosine_similarity(pulled, target, dim=0)
    size = ((pulled @ target) / (target @ target)).clamp_min(1e-6)
    return 1 - cosine + 0.3 * size.log().abs()
