"""The steps that are replayed as a CUDA graph, and the reasons why the others are not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Final

from tests.benchmarks.gpu_parts.steps import replays
from tests.benchmarks.harness import PRESETS, Column, Options, Row, pick, settings_of, trainer_of
from tests.gbc.training.test_cuda_graph import VARIANTS

ABOUT: Final = "which steps pass the check of their CUDA graph and are replayed, and why the others are not"
LIMIT: Final = 45.0
COLUMNS: Final = (Column("size", "size"), Column("variant", "variant"), Column("outcome", "step"), Column("reason", "why"))

_STEPS: Final = 16  # a graph is made in the fourth step, and anew where losses start half-way


def rows(options: Options) -> Iterator[Row]:
    """The presets as they are, then every variant of the step on the smallest of them."""
    cases: list[tuple[str, str, dict[str, Any]]] = [(size, "as it is", {}) for size in PRESETS]
    plain = {"diversity_weight": 0.0}  # which pixels cannot have
    cases += [("quick", name, {**plain, **changes}) for name, changes in VARIANTS.items() if changes]
    for size, variant, changes in [cases[0], cases[-1]] if options.quick else cases:
        yield {"size": size, "variant": variant, **_outcome(size, changes, options)}


def _outcome(size: str, changes: dict[str, Any], options: Options) -> dict[str, str | None]:
    small = {"batch_size": 32, "classifier.hidden": 24} if options.quick else {}
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            trainer = trainer_of(settings_of(size, options, steps=_STEPS, report_every=_STEPS, **small, **changes))
            for _ in trainer.run():
                pass
        except Exception as fault:  # one variant that fails hides no other
            return {"outcome": "fails", "reason": f"{type(fault).__name__}: {str(fault).splitlines()[0]}"}
    reasons = "; ".join(dict.fromkeys(str(warning.message) for warning in raised)) or None
    if pick(options).type != "cuda":
        return {"outcome": "run as it is", "reason": reasons or "not a GPU"}
    return {"outcome": "replayed" if replays(trainer) else "run as it is", "reason": reasons}
