"""The origin of a sweep and how to repeat it: the classifiers, the settings, the commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from dashboards.rendering import format_number, render
from dashboards.sweep import Sweep, Trial


def classifiers(sweep: Sweep) -> Markup:
    """The classifiers: their audit, or how far their training came."""
    return render(
        "sections/classifier.html",
        audits=[(audit, *_conditions(audit), _policies(audit.get("lambda") or {})) for audit in sweep.audits],
        regimes={
            name: [_sentence(regime), *_limits(regime)] for name, regime in sweep.regimes.items() if isinstance(regime, dict)
        },
    )


def _limits(regime: Mapping[str, Any]) -> list[str]:
    """Lines about a classifier: Λ, losses that it cannot have, and what was changed to use it."""
    scaling, unavailable, changes = regime.get("lambda"), regime.get("off"), regime.get("changes")
    return [
        *([str(scaling["sentence"])] if isinstance(scaling, dict) and "sentence" in scaling else []),
        *(
            f"Without effect: {setting}, because {reason}."
            for setting, reason in (unavailable if isinstance(unavailable, dict) else {}).items()
        ),
        *(f"Changed: {change}." for change in (changes if isinstance(changes, list) else [])),
    ]


def _conditions(audit: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """The names of the sets of images, and a row for each condition."""
    conditions = audit.get("conditions") or []
    sets = list(conditions[0].get("values", {})) if conditions else []

    def residual(condition: Mapping[str, Any], name: str) -> str:
        cosines = condition.get("cosines") or {}
        return format_number(condition["values"].get(name), 3) + (f" ({cosines[name]:.2f})" if name in cosines else "")

    return sets, [
        [row.get("name", ""), *[residual(row, name) for name in sets], "yes" if row.get("separates") else "no"]
        for row in conditions
    ]


def _policies(scaling: Mapping[str, Any]) -> list[list[object]]:
    """A row for each policy of Λ."""
    return [
        [
            policy.get("policy", ""),
            policy.get("mode", ""),
            policy.get("refused") or ", ".join(policy.get("kept") or ()) or "–",
            policy.get("same_as") or "",
        ]
        for policy in scaling.get("policies") or []
    ]


def _sentence(regime: Mapping[str, Any]) -> str:
    """The progress of a classifier's training, in a line."""

    def listed(values: Mapping[str, Any], digits: int = 4) -> str:
        return ", ".join(f"{key} {format_number(v, digits) if isinstance(v, float) else v}" for key, v in values.items())

    if "loss" not in regime:
        return "weights as given; how far their training came cannot be measured without images"
    margins = listed(regime.get("margins") or {}, 3)
    return listed({key: regime[key] for key in ("steps", "loss", "accuracy") if key in regime}) + (
        f"; margins {margins}" if margins else ""
    )


def reproduce(sweep: Sweep) -> Markup:
    """The resolved settings, the versions, and the commands that give the same."""
    tags = sweep.runs.tags
    versions = [[name.removeprefix("version."), value] for name, value in sorted(tags.items()) if name.startswith("version.")]
    return render(
        "sections/reproduce.html",
        sweep=sweep,
        commit=tags.get("mlflow.source.git.commit"),
        best=yaml.safe_dump(_settings_of(sweep, sweep.best), sort_keys=False),
        versions=versions
        + [[name, tags[name]] for name in ("data.digest", "classifier.digest", "mlflow.source.git.commit") if name in tags],
    )


def _settings_of(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """The settings for `python -m gbc train --config`: fixed ones, sampled ones, the trial's own seed."""
    seed = trial.run.params.get("seed", "")
    return {**sweep.settings.trial, **trial.params, **({"seed": int(seed)} if seed.isdigit() else {})}
