"""Fig. 3: both sides of Φ(x; e^{αΛ}ζ) = e^α Φ(x; ζ) as curves, for every method to find Λ, with the error as a number.

The paper shows one estimate on Linear(2, 10), ReLU, Linear(10, 1). Λ is not unique, so this figure shows all policies, the
estimates of Eq. (10) by tensor and by scalar, and a wrong Λ as a control that shows a visible difference.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc import pictures
from gbc.checkpoint import write_atomic
from gbc.errors import BadInput
from gbc.kkt import homogeneity
from gbc.kkt.homogeneity import Curves, Degrees

BY_TENSOR: Final = "Eq. (10) by tensor"
BY_SCALAR: Final = "Eq. (10) by scalar"
CONTROL: Final = "control: wrong, all λ = 1"

_DRAWN: Final = 5
_CHECKED: Final = 32
_POINTS: Final = 41
# Eq. (10) by scalar takes P² derivatives for each input and logit.
_MOST_SCALARS: Final = 200


def run(
    out: Path, module: nn.Module | None = None, inputs: Tensor | None = None, *, mode: str = "eval", title: str = ""
) -> dict[str, Any]:
    """Write `homogeneity.png` and `homogeneity.json` into `out`; return the content of the JSON without the curves.

    `inputs` [K, ...] are those of the estimates, about 60. The error is that of the first 32; five are drawn, each by the logit
    of its class. Without `module` it is the paper's network, on random points. `title` is written above the panels. `mode`
    is the BatchNorm mode, `train` or `eval`; layers that normalise by their input's own statistics have an eps near 0.

    For each method in `ways` there is `error`, the greatest relative error over α in [−1, 1] in float64, and `degrees` by
    tensor, or `refused`, the reason why it has no Λ. `freedom` counts the directions in which Λ is free.

    Raises:
        BadInput: a module without inputs, or `out` cannot be written.
    """
    if module is None:
        module, points = paper_network()
        title = title or "Linear(2, 10), ReLU, Linear(10, 1)"
        inputs = points if inputs is None else inputs
    if inputs is None:
        raise BadInput("a network of your own needs inputs to be checked on")
    degrees, freedom, refused = _all_degrees(module, inputs, mode)
    checked, eps = inputs[:_CHECKED], homogeneity.EPS
    curves = {name: homogeneity.curves(module, d, checked, mode=mode, points=_POINTS, eps=eps) for name, d in degrees.items()}
    ways: dict[str, Any] = {}
    for name, both in curves.items():
        by_tensor = {} if isinstance(degrees[name], Tensor) else {"degrees": degrees[name]}
        ways[name] = {"error": both.error, **by_tensor}
    summary = {
        "parameters": sum(p.numel() for p in module.parameters()),
        "inputs": len(inputs),
        "batch_norm": mode,
        "freedom": freedom,
        "ways": ways | {name: {"refused": reason} for name, reason in refused.items()},
    }
    drawn = {name: _largest_logits(both) for name, both in curves.items()}
    first = next(iter(curves.values()))
    numbers = {
        "alpha": first.alpha.tolist(),
        "expected": next(iter(drawn.values()))[1].T.tolist(),
        "scaled": {name: scaled.T.tolist() for name, (scaled, _) in drawn.items()},
    }
    write_atomic(out / "homogeneity.json", json.dumps({**summary, "curves": numbers}, indent=2, ensure_ascii=False).encode())
    errors = {name: both.error for name, both in curves.items()}
    write_atomic(out / "homogeneity.png", _png(first.alpha, drawn, errors, title))
    return summary


def paper_network(seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    """The network of Fig. 3 with random parameters, and points [60, 2] that switch every unit on and off."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        phi = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
        return phi, 3 * torch.randn(60, 2)


def _all_degrees(
    module: nn.Module, inputs: Tensor, mode: str
) -> tuple[dict[str, Degrees | Tensor], dict[str, int], dict[str, str]]:
    """(Λ, freedom, the reason if there is no Λ), each by the method that finds Λ."""
    degrees: dict[str, Degrees | Tensor] = {}
    freedom: dict[str, int] = {}
    refused: dict[str, str] = {}

    def attempt(name: str, find: Callable[[], Degrees | Tensor]) -> None:
        try:
            degrees[name] = find()
        except BadInput as fault:
            refused[name] = str(fault)

    def by_tensor() -> Degrees:
        system = homogeneity.estimated(module, inputs, mode=mode, rng=torch.Generator().manual_seed(0))
        freedom[BY_TENSOR] = system.nullity
        return system.solve()

    def by_scalar() -> Tensor:
        system = homogeneity.estimated_scalars(module, inputs, mode=mode)
        freedom[BY_SCALAR] = system.nullity
        return homogeneity.diagonal(system.solve())

    with contextlib.suppress(BadInput):  # the result of min_norm gives the reason
        freedom["rules"] = homogeneity.structural(module, mode, inputs).nullity
    for name in homogeneity.AUTOMATIC:
        attempt(name, partial(homogeneity.POLICIES[name], module, mode, {}, inputs))
    attempt(BY_TENSOR, by_tensor)
    if sum(parameter.numel() for parameter in module.parameters()) <= _MOST_SCALARS:
        attempt(BY_SCALAR, by_scalar)
    degrees[CONTROL] = {name: 1.0 for name, _ in module.named_parameters()}
    return degrees, freedom, refused


def _largest_logits(curves: Curves) -> tuple[Tensor, Tensor]:
    """(Φ(x; e^{αΛ}ζ), e^α Φ(x; ζ)) [A, inputs] of the first inputs, each by the logit that is largest at α = 0."""
    logits = curves.expected[len(curves.alpha) // 2, :_DRAWN]  # [inputs, C]
    largest = logits.argmax(dim=1).expand(len(curves.alpha), -1)[..., None]
    scaled, expected = (side[:, :_DRAWN].gather(2, largest).squeeze(2) for side in (curves.scaled, curves.expected))
    return scaled, expected


def _png(alpha: Tensor, drawn: dict[str, tuple[Tensor, Tensor]], errors: dict[str, float], title: str) -> bytes:
    """A panel for each method: solid lines for the left-hand side, dotted ones for the right, a colour for each input."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = 3
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(10.5, 3.2 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    expected = next(iter(drawn.values()))[1]
    edge = 0.08 * (expected.max() - expected.min()).item()
    for axis, (name, (left, right)) in zip(axes.flat, drawn.items(), strict=False):
        for colour, left_curve, right_curve in zip(pictures.COLOURS, left.T, right.T, strict=False):
            axis.plot(alpha, left_curve, color=colour, linewidth=3.5, alpha=0.6, solid_capstyle="butt")
            axis.plot(alpha, right_curve, color="black", linewidth=1.3, linestyle=(0, (1, 2)))
        shown = f"{errors[name]:.1e}" if errors[name] < 0.01 else f"{errors[name]:.0%}"
        axis.set_title(f"{name}\nrelative error ≤ {shown}", fontsize=10)
        # The range of the right-hand side: the curve of a wrong Λ may leave it.
        axis.set(xlim=(-1, 1), ylim=(expected.min().item() - edge, expected.max().item() + edge))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(drawn) - columns) : len(drawn)]:  # the lowest of each column
        axis.set_xlabel("α")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("Φ")
    if title:
        figure.suptitle(title)
    figure.legend(
        handles=[
            Line2D([], [], color=pictures.COLOURS[1], linewidth=3.5, alpha=0.6, label="Φ(x; $e^{αΛ}$ζ), a colour for each x"),
            Line2D([], [], color="black", linewidth=1.3, linestyle=(0, (1, 2)), label="$e^{α}$ Φ(x; ζ)"),
        ],
        loc="outside lower center", ncols=2, frameon=False,
    )  # fmt: skip
    return pictures.figure_png(figure, dpi=100)
